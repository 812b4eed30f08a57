"""What the ingest of a COCO JSON of a million images takes, and how much memory the driver and each task grow by.

``python -m benchmarks.coco_ingest [--images 1000000] [--annotations-per-image 7] [--until scenes] [name=value ...]``
writes a synthetic COCO JSON (true field layout; 7 polygons an image) with an image file for every row, hard links to a
hundred and more small JPEGs, and runs the main job on it up to ``--until`` in a private Ray: the listing with a check
of the labels, packing, which reads and decodes every file, and the table of scenes. The job's lines are printed as
they come.

Four times a second, the driver and every worker are looked at. A process's growth is the most that it ever held, by
the kernel's own mark (``VmHWM``: resident, with what it shares), above what it held when it was ready: the driver when
its first stage began, a worker at the first sample that shows the title that Ray gives it. So what a worker imports
for its tasks counts as growth, pages of libraries and of Ray's object store count whole in each process, and a worker
that runs many tasks one after the other is taken as one task. The largest growth is told with the task that ran at that
peak, and with the largest growth up to the end of each stage.

The last line is JSON: images, gigabytes of JSON, seconds of each stage and of the job, images a second, and growth
and peak, MB, of the driver and of the task that grew most.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.process_memory import SAMPLE_SECONDS, MemoryWatch, Seen
from benchmarks.synthetic_coco import write_coco
from orl_ray.graph import main_job


def main() -> int:
    """Write the collection, run the job once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--annotations-per-image", type=int, default=7)
    parser.add_argument("--until", default="scenes", metavar="STAGE")
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(prefix="orl-coco-") as name:
        folder, started = Path(name), time.monotonic()
        images, annotations = write_coco(folder, options.images, options.annotations_per_image)
        size = annotations.stat().st_size
        written = time.monotonic() - started
        print(f"{options.images:,} images and {size / 1e9:.2f} GB of JSON written in {written:.0f} s", flush=True)
        settings = ["source.kind=coco", f"source.images={images}", f"source.annotations={annotations}"]
        job = Path(__file__).parents[1] / "jobs" / "full_pipeline.py"
        command = [sys.executable, str(job), "--preset", "coco", "--until", options.until]
        command += [f"execution.store={folder / 'store'}", *settings, *options.settings]
        started = time.monotonic()
        code, watch, stages = _run(command)
        seconds = time.monotonic() - started
        result = {"images": options.images, "json_gb": round(size / 1e9, 2), "stage_seconds": stages.seconds()}
        rates = {"seconds": round(seconds, 1), "images_s": round(options.images / seconds)}
        print(json.dumps({**result, **rates, **_memory(watch)}), flush=True)
    return code


@dataclass(slots=True)
class _Stages:
    """When stages began and ended, as the job's own lines say.

    Attributes:
        times: stage -> its seconds on a monotonic clock: the begin and, once it has ended, the end.
    """

    times: dict[str, list[float]] = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Take one line of the job's output."""
        now = time.monotonic()
        for stage in main_job():
            if line.startswith(f"{stage.title}: done in "):
                self.times[stage.name].append(now)
            elif line.startswith(f"{stage.title}: "):
                self.times.setdefault(stage.name, [now])

    def now(self) -> str:
        """Name the stage that began last; "" before the first."""
        return next(reversed(self.times), "")

    def seconds(self) -> dict[str, float]:
        """Return the wall seconds of each stage that ended."""
        return {name: round(times[1] - times[0], 1) for name, times in self.times.items() if len(times) == 2}


def _run(command: list[str]) -> tuple[int, MemoryWatch, _Stages]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603 -- our own job
    watch, stages, ended = MemoryWatch(process), _Stages(), threading.Event()

    def read_lines() -> None:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            stages.read(line)
        ended.set()

    watch.sample(stages.now())
    threading.Thread(target=read_lines, daemon=True).start()
    while not ended.wait(SAMPLE_SECONDS):
        watch.sample(stages.now())
    return process.wait(), watch, stages


def _memory(watch: MemoryWatch) -> dict[str, Any]:
    largest = max(watch.workers.values(), key=lambda seen: seen.growth, default=Seen())
    by_stage: dict[str, int] = {}
    for seen in watch.workers.values():
        for stage, peak in seen.peaks.items():
            by_stage[stage or "start"] = max(by_stage.get(stage or "start", 0), (peak - seen.first) >> 20)
    return {
        "driver_growth_mb": watch.driver.growth >> 20,
        "driver_peak_mb": watch.driver.peak >> 20,
        "task_growth_mb": largest.growth >> 20,
        "task_peak_mb": largest.peak >> 20,
        "task": largest.name,
        "task_growth_mb_by_stage": by_stage,
    }


if __name__ == "__main__":
    sys.exit(main())
