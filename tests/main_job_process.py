"""The main job as a process of its own, on collections that are small enough for a test, with a private Ray."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

JOB = Path(__file__).parents[1] / "jobs" / "full_pipeline.py"
PATIENCE = 400

TINY = (
    "generated.images=24",
    "generated.test_images=12",
    "generated.side=128",
    "source.part_size=4",
    "encoder.hidden=32",
    "encoder.output=16",
    "image_level.epochs=1",
    "image_level.warmup_epochs=0.5",
    "image_level.batch_size=8",
    "image_level.view_size=32",
    "embeddings.image_resize=36",
    "embeddings.image_crop=32",
    "embeddings.roi_size=32",
    "embeddings.batch_size=16",
    "mining.k=3",
    "mining.k_max=6",
    "object_level.epochs=1",
    "object_level.warmup_epochs=0.5",
    "object_level.batch_size=8",
    "object_level.view_size=32",
    "object_level.patch_size=16",
    "evaluation.min_positives=1",
    "evaluation.knn_k=5",
    "evaluation.bootstrap=100",
    "report.gallery_images=2",
    "execution.cpus=2",
)


class MainJob:
    """Runs ``jobs/full_pipeline.py``; everything it started is ended with it.

    Args:
        ray_folder: private folder of Ray's files, short: Unix sockets live in it.
    """

    def __init__(self, ray_folder: Path) -> None:
        self.ray_folder = ray_folder
        self._processes: list[subprocess.Popen[str]] = []

    def start(
        self, store: Path, *settings: str, flags: tuple[str, ...] = (), program: tuple[str, ...] = (str(JOB),)
    ) -> subprocess.Popen[str]:
        environment = {**os.environ, "RAY_TMPDIR": str(self.ray_folder), "HOME": str(self.ray_folder)}
        environment.pop("RAY_ADDRESS", None)
        process = subprocess.Popen(
            [sys.executable, *program, *flags, f"execution.store={store}", *TINY, *settings],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(
        self,
        store: Path,
        *settings: str,
        flags: tuple[str, ...] = (),
        code: int = 0,
        program: tuple[str, ...] = (str(JOB),),
    ) -> str:
        process = self.start(store, *settings, flags=flags, program=program)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, output
        return output

    def kill_driver(self, process: subprocess.Popen[str]) -> None:
        """Kill the driver alone; its raylet and workers go with it, and what of Ray takes its time is ended here."""
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(family, timeout=3)
        for survivor in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                self.kill_driver(process)


@contextlib.contextmanager
def private_main_job() -> Iterator[MainJob]:
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # tests that a shell runs in the background, and their children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="orl"))
    job = MainJob(folder)
    try:
        yield job
    finally:
        job.end()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    """Poll until something holds; fail when the process ends first or patience does."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the job ended before {what}: {process.communicate()[0]}"
        assert time.monotonic() < limit, f"no {what} within {PATIENCE} s"
        time.sleep(0.005)


def workers(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Return the living Ray workers below a driver whose title contains ``name``."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in " ".join(child.cmdline()) and child.cmdline()[0].startswith("ray::"):
                found.append(child)
    return found


def kill_worker(process: subprocess.Popen[str], name: str) -> int:
    """Kill one worker with SIGKILL; return its process id."""
    victim = workers(process, name)[0]
    victim.send_signal(signal.SIGKILL)
    return victim.pid


def parts(store: Path, artifact: str) -> int:
    """Count the finished parts of an artifact."""
    return len(list((store / artifact).glob("*.json")))


def content_hashes(store: Path, artifact: str) -> dict[int, str]:
    """Return part number -> content hash of the artifact that the newest run used."""
    run = json.loads(max((store / "runs").glob("*.json")).read_bytes())
    keys = run["stages"][artifact]["parts"]
    return {
        int(index): json.loads((store / artifact / f"{key}.json").read_bytes())["content_hash"]
        for index, key in keys.items()
    }
