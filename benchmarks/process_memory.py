"""How much memory each process of a tree takes on, while it runs."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.25
_IDLE = "ray::IDLE"
_FIELD = re.compile(r"^(VmHWM|VmRSS):\s+(\d+) kB$", re.MULTILINE)


@dataclass(slots=True)
class Seen:
    """What was seen of one process.

    Attributes:
        name: its title when it held the most; Ray names the task there.
        stage: the stage that ran then.
        first: resident bytes when it was ready to work.
        peak: most resident bytes that the kernel saw (``VmHWM``), shared pages included.
    """

    name: str
    stage: str
    first: int
    peak: int

    @property
    def growth(self) -> int:
        """Bytes between the two."""
        return self.peak - self.first


@dataclass(slots=True)
class MemoryWatch:
    """Samples a driver of Ray and the workers that it starts.

    Attributes:
        root: the driver.
        driver: what was seen of it, None before its first stage.
        workers: process id -> what was seen of a worker.
    """

    root: subprocess.Popen[str]
    driver: Seen | None = None
    workers: dict[int, Seen] = field(default_factory=dict)

    def sample(self, stage: str) -> None:
        """Look at every process once; the kernel keeps what was between two samples.

        The driver is ready when its first stage begins: it has imported what it needs, and Ray is up. A worker is
        ready when it has its title from Ray, before its first task or with it.

        Args:
            stage: what runs now, "" before the first stage.
        """
        try:
            parent = psutil.Process(self.root.pid)
            children = parent.children(recursive=True)
        except psutil.NoSuchProcess:
            return
        if stage:
            self.driver = _look(parent, self.driver, stage)
        for child in children:
            seen = _look(child, self.workers.get(child.pid), stage)
            if seen is not None and seen.name.startswith("ray::"):
                self.workers[child.pid] = seen


def _look(process: psutil.Process, known: Seen | None, stage: str) -> Seen | None:
    """Return what is known of a process now."""
    try:
        fields = dict(_FIELD.findall(Path(f"/proc/{process.pid}/status").read_text()))
        held, peak = int(fields["VmRSS"]) * 1024, int(fields["VmHWM"]) * 1024
        if known is None or peak > known.peak:
            title = (process.cmdline() or [process.name()])[0]
            if known and title == _IDLE:  # its last task ended since the sample before
                title = known.name
            return Seen(title, stage, known.first if known else held, peak)
    except (psutil.Error, OSError, KeyError):  # it ended meanwhile
        pass
    return known
