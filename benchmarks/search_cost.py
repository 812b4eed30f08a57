"""What a process pays for its first search: seconds until it is ready, and memory.

``python -m benchmarks.search_cost IMAGE --side ours|opencv --mode fast|half|quality`` prints one line of JSON:
``first_seconds``, CPU seconds of importing the search and searching a corner of the photograph, which loads or compiles
whatever is needed; ``idle_mb``, what the process holds then; ``peak_mb_above_idle`` and ``seconds``, the most memory
that it takes on, and its CPU seconds, while it searches the whole photograph. Linux only: the kernel's mark of the peak
is set back in between.

``python -m benchmarks.search_cost FOLDER/*.jpg --mosaic 6000 4000 [--max-side 640]`` searches one large picture, laid
out of many photographs at their own size, as no small collection holds one of 24 megapixels.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--side", choices=("ours", "opencv"), default="ours")
    parser.add_argument("--mode", choices=("fast", "half", "quality"), default="fast")
    parser.add_argument("--max-side", type=int, default=0, help="search at this longer side, ours only")
    parser.add_argument("--mosaic", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="lay the images out")
    options = parser.parse_args()

    from orl_ray.scenes.decode import decode

    decoded = (decode(path.read_bytes(), 10**9) for path in options.images)
    image = mosaic(list(decoded), *options.mosaic) if options.mosaic else next(decoded)
    started = time.process_time()
    from benchmarks.both_searches import search_of

    search = search_of(options.side, options.mode, options.max_side)
    search(image[: image.shape[0] // 4 + 1, : image.shape[1] // 4 + 1][:480, :640].copy())(0, 0)
    first = time.process_time() - started
    Path("/proc/self/clear_refs").write_text("5")
    idle = _held("VmRSS")
    started = time.process_time()
    search(image)(0, 0)
    seconds = time.process_time() - started
    figures = {
        "first_seconds": round(first, 2),
        "idle_mb": idle >> 10,
        "peak_mb_above_idle": (_held("VmHWM") - idle) >> 10,
        "seconds": round(seconds, 2),
        "size": [image.shape[1], image.shape[0]],
    }
    print(json.dumps(figures))
    return 0


def mosaic(photographs: Sequence[NDArray[np.uint8]], width: int, height: int) -> NDArray[np.uint8]:
    """Lay photographs out in rows, at their own size, again and again until a picture is full.

    Args:
        photographs: (H, W, 3) uint8 each.
        width: of the picture, pixels.
        height: of the picture, pixels.

    Returns:
        (height, width, 3) uint8; what does not fit is cut off, what lies under a lower photograph is black.
    """
    picture, at, top = np.zeros((height, width, 3), np.uint8), 0, 0
    while top < height:
        left, row = 0, 1
        while left < width:
            tile = photographs[at % len(photographs)][: height - top, : width - left]
            picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            left, row, at = left + tile.shape[1], max(row, tile.shape[0]), at + 1
        top += row
    return picture


def measured(image: Path, side: str, mode: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run this module as a process of its own and return what it prints.

    Raises:
        CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.search_cost", str(image.resolve()), "--side", side, "--mode", mode]
    root = Path(__file__).parents[1]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)  # noqa: S603
    figures: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def _held(mark: str) -> int:
    """Return resident memory, or the most it was, kB."""
    found = re.search(rf"^{mark}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"this system does not tell {mark}")
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main())
