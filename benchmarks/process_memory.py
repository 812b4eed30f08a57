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
        first: resident bytes when it was ready to work.
        name: its title when it held the most; Ray names the task there.
        peak: most resident bytes that the kernel saw (``VmHWM``), shared pages included.
        peaks: stage -> the same up to the end of that stage, where it was there.
    """

    first: int = 0
    name: str = ""
    peak: int = 0
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def growth(self) -> int:
        """Bytes that it took on."""
        return self.peak - self.first


@dataclass(slots=True)
class MemoryWatch:
    """Samples a driver of Ray and the workers that it starts.

    Attributes:
        root: the driver.
        driver: what was seen of it since its first stage began.
        workers: process id -> what was seen of a worker.
    """

    root: subprocess.Popen[str]
    driver: Seen = field(default_factory=Seen)
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
            _look(parent, self.driver, stage)
        for child in children:
            seen = self.workers.get(child.pid, Seen())
            _look(child, seen, stage)
            if seen.name.startswith("ray::"):
                self.workers[child.pid] = seen


def _look(process: psutil.Process, seen: Seen, stage: str) -> None:
    """Note what a process holds."""
    try:
        fields = dict(_FIELD.findall(Path(f"/proc/{process.pid}/status").read_text()))
        held, peak = int(fields["VmRSS"]) * 1024, int(fields["VmHWM"]) * 1024
        title = (process.cmdline() or [process.name()])[0]
    except (psutil.Error, OSError, KeyError):  # it ended meanwhile
        return
    seen.first = seen.first or held
    seen.peaks[stage] = peak
    if peak > seen.peak:
        # Where a worker is idle, its last task has ended since the sample before.
        seen.peak, seen.name = peak, seen.name if title == _IDLE and seen.name else title
