"""Selective search against OpenCV's: are the boxes the same, and how much faster is it?

    .venv/bin/python -m benchmarks.selective_search FOLDER [--mode fast|quality|half] [--images N] [--first N]

Both run on one thread, in turns, image by image; times are CPU times, the smaller of two for ours.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.modes import Mode
from orl_ray.proposals.opencv_reference import opencv_boxes
from orl_ray.proposals.selective_search import propose
from orl_ray.scenes.decode import decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=("fast", "quality", "half"), default="fast")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.jpg"))[arguments.first : arguments.first + arguments.images]
    mode = cast("Mode", arguments.mode)
    start = time.perf_counter()
    propose(np.zeros((8, 8, 3), np.uint8), mode)
    print(f"compiling, or loading what was compiled: {time.perf_counter() - start:.1f} s")
    ratios, ours, theirs, same, shared, all_boxes = [], [], [], 0, 0, 0
    for path in paths:
        image = decode(path.read_bytes(), 100_000_000)
        boxes, once = timed_boxes(image, mode)
        start = time.process_time()
        reference = opencv_boxes(image, "quality" if mode == "quality" else "fast")
        theirs.append(time.process_time() - start)
        _, again = timed_boxes(image, mode)
        ours.append(min(once, again))
        ratios.append(theirs[-1] / ours[-1])
        wanted = set(map(tuple, reference.tolist()))
        found = set(map(tuple, boxes.tolist()))
        same += found == wanted
        shared += len(found & wanted)
        all_boxes += len(wanted)
        if found != wanted and mode != "half":
            print(f"{path.name}: {len(found - wanted)} boxes too many, {len(wanted - found)} missing")
    print(f"{mode}: {same} of {len(paths)} photographs with exactly OpenCV's boxes; {shared:,} of {all_boxes:,} boxes")
    milliseconds = [1e3 * statistics.median(times) for times in (theirs, ours)]
    print("CPU ms an image, median: OpenCV {:.0f}, ours {:.0f}".format(*milliseconds))
    print(f"ratio: median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}")


def timed_boxes(image: NDArray[np.uint8], mode: Mode) -> tuple[NDArray[np.int32], float]:
    start = time.process_time()
    regions = propose(image, mode)
    return regions.boxes, time.process_time() - start


if __name__ == "__main__":
    main()
