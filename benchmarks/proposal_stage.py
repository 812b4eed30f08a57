"""What Ray adds to the search for proposals: CPU seconds an image, and workers that stand idle while parts wait.

``python -m benchmarks.proposal_stage --images FOLDER [--limit N] [--workers 1] [--nodes 1 2 4] [name=value ...]``

The main job runs up to ``proposals`` on N photographs, with a private Ray of as many CPUs as workers. From its line
that the stage begins to its line that it is done, the CPU seconds of the driver and of everything that it started are
taken from the operating system: the workers read packs, decode, search, rank and write, and Ray's own processes run.
Before and after, as many bare processes decode the same files and search them, and do nothing else; their CPU seconds
count from their second search on, so no compiling, loading or importing, while those of the stage do count.

Then parts that only sleep go through the stages' own ``run_parts`` on clusters of one-CPU nodes: see
``benchmarks.idle_workers``.

The last line is a JSON object. ``cpu_ratio``: CPU seconds an image of the workers over the bare ones;
``cpu_ratio_all``: the same of all processes; those of driver and Ray grow with the wall time, not with the photographs.
``passes``: ``cpu_ratio`` is at most 1.1, every node took part, and the median gap between two parts of a node, while
parts waited, is below ``--most-gap-ms``; the exit status says the same. Wall seconds are told and decide nothing.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import idle_workers
from benchmarks.both_searches import search_of
from orl_ray.proposals.modes import Mode
from orl_ray.proposals.stages import PROPOSALS
from orl_ray.scenes.decode import decode

MOST_CPU_RATIO = 1.1
_SAMPLE_SECONDS = 0.2
_PARTS = 32


@dataclass(slots=True)
class CpuWatch:
    """CPU seconds of a driver of Ray and all that it started.

    Attributes:
        root: the driver.
        seen: (process id, its start) -> CPU seconds when it was last seen.
        workers: those of them that made parts.
    """

    root: psutil.Process
    seen: dict[tuple[int, float], float] = field(default_factory=dict)
    workers: set[tuple[int, float]] = field(default_factory=set)

    def sample(self) -> dict[tuple[int, float], float]:
        """Look at every process; return what is known of all, those included that have ended."""
        for process in self._family():
            try:
                key, times = (process.pid, process.create_time()), process.cpu_times()
                title = " ".join(process.cmdline())
            except psutil.Error:  # it ended meanwhile
                continue
            self.seen[key] = times.user + times.system
            if "PartWorker" in title:
                self.workers.add(key)
        return dict(self.seen)

    def _family(self) -> list[psutil.Process]:
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--limit", type=int, default=300, help="photographs; few make what is done once weigh")
    parser.add_argument("--workers", type=int, default=1, help="workers of the stage, and bare processes")
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4], help="sizes of the clusters that sleep")
    parser.add_argument("--most-gap-ms", type=float, default=50.0, help="largest median gap that passes")
    parser.add_argument("--mode", choices=("fast", "half", "quality"), default="fast")
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_intermixed_args()
    files = sorted(path for path in options.images.iterdir() if path.is_file())[: options.limit]
    if not files:
        parser.error(f"{options.images} holds no files")
    before = bare_cpu_seconds(files, options.mode, options.workers)
    stage = stage_cpu_seconds(files, options.workers, [f"proposals.mode={options.mode}", *options.settings])
    after = bare_cpu_seconds(files, options.mode, options.workers)
    result = _ratios(stage, [before, after], len(files))
    for nodes in options.nodes:
        result.setdefault("sleeping", []).append(idle_workers.measure(nodes, _PARTS))
    result["passes"] = result["cpu_ratio"] <= MOST_CPU_RATIO and all(
        sleep["nodes_used"] == sleep["nodes"] and sleep["gap_ms_median"] < options.most_gap_ms
        for sleep in result.get("sleeping", [])
    )
    print(json.dumps(result))
    return 0 if result["passes"] else 1


def _ratios(stage: dict[str, float], bare: Sequence[float], images: int) -> dict[str, Any]:
    mean = sum(bare) / len(bare)
    return {
        "images": images,
        "cpu_ratio": round(stage["workers"] / mean, 3),
        "cpu_ratio_all": round(stage["all"] / mean, 3),
        "cpu_ms_an_image": {
            "bare": [round(1000 * seconds / images, 1) for seconds in bare],
            "workers": round(1000 * stage["workers"] / images, 1),
            "all": round(1000 * stage["all"] / images, 1),
        },
        "stage_seconds": round(stage["wall"], 1),
    }


def bare_cpu_seconds(files: Sequence[Path], mode: Mode, workers: int) -> float:
    """Decode and search photographs in plain processes, each its share of them.

    Args:
        files: the photographs.
        mode: of the search.
        workers: processes at once.

    Returns:
        CPU seconds of all of them, without those of getting ready.
    """
    shares = [list(files[start::workers]) for start in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return sum(pool.starmap(_bare, [(share, mode) for share in shares if share], chunksize=1))


def _bare(files: list[Path], mode: Mode) -> float:
    search = search_of("ours", mode)
    search(decode(files[0].read_bytes(), 10**9))
    started = time.process_time()
    for path in files:
        search(decode(path.read_bytes(), 10**9))
    return time.process_time() - started


def stage_cpu_seconds(files: Sequence[Path], workers: int, settings: Sequence[str]) -> dict[str, float]:
    """Run the main job up to the proposals.

    Args:
        files: the photographs.
        workers: data workers, and CPUs of the private Ray.
        settings: more settings.

    Returns:
        During the stage: CPU seconds of ``workers``, which made its parts, and of ``all`` processes; ``wall`` seconds.

    Raises:
        RuntimeError: the job failed.
    """
    with tempfile.TemporaryDirectory(prefix="orl-stage-") as name:
        source = Path(name) / "photographs"
        source.mkdir()
        for path in files:
            shutil.copy2(path, source / path.name)
        job = Path(__file__).parents[1] / "jobs" / "full_pipeline.py"
        command = [sys.executable, str(job), "--preset", "coco", "--until", PROPOSALS.name, "source.kind=folder"]
        command += [f"source.images={source}", f"execution.store={name}/store", "source.part_size=16"]
        command += [f"execution.cpus={workers}", f"execution.data_workers={workers}", *settings]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603 -- our own
        watch = CpuWatch(psutil.Process(process.pid))
        snapshots = list(_watched(process, watch))
        if process.wait() or len(snapshots) != 2:
            raise RuntimeError(f"the job ended with status {process.returncode}, see its lines above")
    (began, first), (ended, last) = snapshots
    spent = {key: seconds - first.get(key, 0.0) for key, seconds in last.items()}
    return {
        "workers": sum(spent[key] for key in watch.workers),
        "all": sum(spent.values()),
        "wall": ended - began,
    }


def _watched(process: subprocess.Popen[str], watch: CpuWatch) -> Iterator[tuple[float, dict[tuple[int, float], float]]]:
    """Pass the job's lines on; yield the time and all CPU seconds when the stage begins and when it is done."""
    ended = threading.Event()

    def keep_sampling() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            watch.sample()

    sampler = threading.Thread(target=keep_sampling)
    for line in process.stdout or ():
        print(line, end="", file=sys.stderr, flush=True)
        if line.startswith(f"{PROPOSALS.title}: done in "):
            ended.set()
            sampler.join()
            yield time.monotonic(), watch.sample()
        elif line.startswith(f"{PROPOSALS.title}: ") and not sampler.is_alive() and not ended.is_set():
            yield time.monotonic(), watch.sample()
            watch.workers.clear()  # makers of earlier stages' parts
            sampler.start()
    ended.set()


if __name__ == "__main__":
    sys.exit(main())
