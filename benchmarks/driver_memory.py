"""How much more memory the driver holds for a hundred thousand images than for a thousand.

``python -m benchmarks.driver_memory [--small 1000] [--large 100000] [--until object_level] [name=value ...]``

For each size a synthetic COCO collection of small, different pictures is written, and the main job's own command line
runs on it in a process and a private Ray of its own, up to ``--until``: listing, packing, near-duplicates, proposals,
RoIs, image-level training, embeddings, shards, neighbours, pairs, object-level training. All is real, with parts of 512
images as by default, but for two fakes: boxes are scattered instead of searched for, and embeddings are averages of
colours (:mod:`benchmarks.faked_kernels`). Trainings export the whole collection, but take a hundredth of an epoch.

Ten times a second the driver's unique set size is read: what would be free if it ended (``USS``; libraries and Ray's
object store that it shares do not count). ``driver_mb``: the most of it, by size; ``growth_mb``: the difference.
``resident_mb``: the kernel's own mark of the most that was resident, shared pages included (``VmHWM``), which misses
nothing between two looks. ``ready_mb``: USS when the first stage began. ``by_stage_mb``: the most during each stage.
``passes``: the growth is below ``--most-mb``; the exit status says the same.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.synthetic_coco import write_coco
from orl_ray.graph import main_job

MOST_GROWTH_MB = 100
SMALL_PICTURES = (
    "encoder.backbone=resnet18",
    "encoder.hidden=16",
    "encoder.output=8",
    "image_level.epochs=0.01",
    "image_level.batch_size=64",
    "image_level.view_size=16",
    "image_level.warmup_epochs=0",
    "rois.min_share=0.2",
    "rois.max_rois=12",
    "embeddings.image_resize=16",
    "embeddings.image_crop=16",
    "embeddings.roi_size=16",
    "object_level.epochs=0.01",
    "object_level.batch_size=64",
    "object_level.view_size=16",
    "object_level.warmup_epochs=0",
    "object_level.patch_size=16",
)
_SAMPLE_SECONDS = 0.1
_HIGHEST = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(slots=True)
class HeldBytes:
    """What a process held, by the stage that ran.

    Attributes:
        first: bytes at the first look.
        peaks: stage -> most bytes that were seen during it.
        resident: the kernel's mark of the most resident bytes.
    """

    first: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    resident: int = 0

    def note(self, stage: str, unique: int, resident: int) -> None:
        """Take one look."""
        self.first = self.first or unique
        self.peaks[stage] = max(self.peaks.get(stage, 0), unique)
        self.resident = max(self.resident, resident)

    @property
    def peak(self) -> int:
        """Most bytes that were ever seen."""
        return max(self.peaks.values(), default=0)


def main() -> int:
    """Run both sizes and print what the driver held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--small", type=int, default=1_000, help="images of the small collection")
    parser.add_argument("--large", type=int, default=100_000, help="images of the large one")
    parser.add_argument("--until", default="object_level", metavar="STAGE")
    parser.add_argument("--most-mb", type=float, default=MOST_GROWTH_MB, help="growth that passes")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_intermixed_args()
    if options.drive:
        return drive(options.until, options.settings)
    held, seconds = {}, {}
    for images in (options.small, options.large):
        started = time.monotonic()
        held[images] = _measure(images, options.until, options.settings)
        seconds[images] = round(time.monotonic() - started, 1)
        print(f"{images:,} images: the driver held {held[images].peak / 2**20:.1f} MB", flush=True)
    result = figures(held, options.most_mb)
    print(json.dumps({**result, "until": options.until, "seconds": seconds}))
    return 0 if result["passes"] else 1


def figures(held: dict[int, HeldBytes], most_mb: float) -> dict[str, Any]:
    """Turn what drivers held into the benchmark's figures.

    Args:
        held: images -> what the driver held; two sizes, the smaller one first.
        most_mb: growth that passes, MB.
    """
    small, large = held.values()
    growth = (large.peak - small.peak) / 2**20
    return {
        "driver_mb": {images: round(driver.peak / 2**20, 1) for images, driver in held.items()},
        "growth_mb": round(growth, 1),
        "resident_mb": {images: round(driver.resident / 2**20, 1) for images, driver in held.items()},
        "ready_mb": {images: round(driver.first / 2**20, 1) for images, driver in held.items()},
        "by_stage_mb": {
            images: {stage: round(peak / 2**20, 1) for stage, peak in driver.peaks.items()}
            for images, driver in held.items()
        },
        "passes": growth < most_mb,
    }


def drive(until: str, settings: list[str]) -> int:
    """Be the driver: the main job's command line over the graph with fakes; returns its exit status."""
    from unittest.mock import patch

    from benchmarks.faked_kernels import with_fakes
    from orl_ray.cli import full_pipeline

    stages = with_fakes(main_job())
    with patch("orl_ray.graph.main_job", return_value=stages):
        return full_pipeline(["--preset", "coco", "--until", until, *settings])


def _measure(images: int, until: str, settings: list[str]) -> HeldBytes:
    with tempfile.TemporaryDirectory(prefix="orl-driver-") as name:
        folder = Path(name)
        pictures, annotations = write_coco(folder, images, 1, images)
        command = [sys.executable, "-m", "benchmarks.driver_memory", "--drive", "--until", until, "source.kind=coco"]
        command += [f"source.images={pictures}", f"source.annotations={annotations}", f"execution.store={name}/store"]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])  # its workers import the fakes
        process = subprocess.Popen(  # noqa: S603 -- our own job
            [*command, *SMALL_PICTURES, *settings], stdout=subprocess.PIPE, text=True, env=environment
        )
        held = _watched(process)
        if process.wait():
            raise RuntimeError(f"the job on {images} images ended with status {process.returncode}, see its lines")
    return held


def _watched(process: subprocess.Popen[str]) -> HeldBytes:
    """Pass the job's lines on, and look at it ten times a second from its first stage on."""
    held, running, ended = HeldBytes(), [""], threading.Event()
    titles = {f"{stage.title}: ": stage.name for stage in main_job()}

    def read_lines() -> None:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            running[0] = next((name for title, name in titles.items() if line.startswith(title)), running[0])
        ended.set()

    threading.Thread(target=read_lines, daemon=True).start()
    driver = psutil.Process(process.pid)
    while not ended.wait(_SAMPLE_SECONDS):
        with contextlib.suppress(psutil.Error, OSError, AttributeError):  # it is about to end
            if running[0]:
                resident = _HIGHEST.search(Path(f"/proc/{process.pid}/status").read_text())
                held.note(running[0], driver.memory_full_info().uss, 1024 * int(resident[1]) if resident else 0)
    return held


if __name__ == "__main__":
    sys.exit(main())
