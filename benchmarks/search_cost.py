"""What a process pays for its first search: seconds until it is ready, and memory.

``python -m benchmarks.search_cost IMAGE --side ours|opencv --mode fast|half|quality`` prints one line of JSON:
``first_seconds``, CPU seconds of importing the search and searching a corner of the photograph, which loads or compiles
whatever is needed; ``idle_mb``, what the process holds then; ``peak_mb_above_idle``, the most that it takes on while it
searches the whole photograph. Linux only: the kernel's mark of the peak is set back in between.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("image", type=Path)
    parser.add_argument("--side", choices=("ours", "opencv"), default="ours")
    parser.add_argument("--mode", choices=("fast", "half", "quality"), default="fast")
    options = parser.parse_args()

    from orl_ray.scenes.decode import decode

    image = decode(options.image.read_bytes(), 10**9)
    started = time.process_time()
    from benchmarks.both_searches import search_of

    search = search_of(options.side, options.mode)
    search(image[: image.shape[0] // 4 + 1, : image.shape[1] // 4 + 1].copy())(0, 0)
    first = time.process_time() - started
    Path("/proc/self/clear_refs").write_text("5")
    idle = _held("VmRSS")
    search(image)(0, 0)
    peak = _held("VmHWM") - idle
    print(json.dumps({"first_seconds": round(first, 2), "idle_mb": idle >> 10, "peak_mb_above_idle": peak >> 10}))
    return 0


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
