"""How long the main job takes and how much memory all of its processes hold.

``python -m benchmarks.main_job [name=value ...]`` runs ``jobs/full_pipeline.py`` in a new store and prints its output,
then one line of JSON: wall seconds, seconds of work a stage, and the peak of the proportional set size (PSS), summed
over the driver and every process that it started.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 0.5


def main() -> int:
    """Run the job once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orl-bench-") as folder:
        store = Path(folder) / "store"
        job = Path(__file__).parents[1] / "jobs" / "full_pipeline.py"
        command = [sys.executable, str(job), f"execution.store={store}", *options.settings]
        started = time.monotonic()
        process = subprocess.Popen(command)  # noqa: S603 -- our own job
        peak = _watch_memory(process)
        seconds = time.monotonic() - started
        print(json.dumps({"seconds": round(seconds, 1), "peak_pss_gb": round(peak / 2**30, 2), **_stages(store)}))
    return process.returncode


def _watch_memory(process: subprocess.Popen[bytes]) -> int:
    """Sample until the process ends; return the highest sum of PSS over its tree, bytes."""
    peak, ended = 0, threading.Event()

    def wait() -> None:
        process.wait()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    root = psutil.Process(process.pid)
    while not ended.wait(_SAMPLE_SECONDS):
        peak = max(peak, sum(_pss(member) for member in _tree(root)))
    return peak


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _stages(store: Path) -> dict[str, dict[str, float]]:
    seconds: dict[str, float] = {}
    for path in store.glob("*/*.json"):
        record = json.loads(path.read_bytes())
        if "seconds" in record and "artifact" in record:
            seconds[record["artifact"]] = round(seconds.get(record["artifact"], 0.0) + record["seconds"], 1)
    return {"stage_seconds": dict(sorted(seconds.items()))}


if __name__ == "__main__":
    sys.exit(main())
