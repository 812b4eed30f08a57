"""The same collection, RoIs and settings as in a finished store, discovered with an untrained encoder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.fresh_encoder import fresh_weights, write_in_place_of_training
from orl_ray.config import flatten
from orl_ray.settings import Value, build, default, known_settings
from orl_ray.storage import MARKER, Store

_BEFORE_TRAINING = ("listing", "packed_scenes", "scenes", "near_duplicates", "proposals", "rois")


def discover_untrained(source: Store, folder: Path) -> Store:
    """Run the main job up to ``correspondences`` with the weights that image-level training starts from.

    What an earlier call left in the folder is used. Neighbours are searched anew, with the untrained encoder.

    Args:
        source: a local store whose newest run has made its RoIs; it is read, not written.
        folder: the store to make; new, or of an earlier call for the same source.

    Returns:
        The store in ``folder``.

    Raises:
        ValueError: the source has no run yet.
        RuntimeError: the job failed.
    """
    run = next((run for run in source.runs(None) if run["stages"].get("rois", {}).get("key")), None)
    if run is None:
        raise ValueError(f"{source.root}: no run has made its RoIs yet")
    if not folder.exists():
        copy_without_training(source, run["config"], folder)
    config, store = build({**run["config"], "execution.store": str(folder)}), Store(folder)
    known = known_settings()
    settings = [f"{name}={value}" for name, value in flatten(config).items() if value != default(known[name])]
    job = Path(__file__).parents[1] / "jobs" / "full_pipeline.py"
    command = [sys.executable, str(job), "--preset", "coco", "--until", "correspondences", *settings]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    code = subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode  # noqa: S603 -- our own job
    if code:
        raise RuntimeError(f"discovery with an untrained encoder ended with status {code}, see its lines")
    return store


def copy_without_training(source: Store, values: Mapping[str, Value], folder: Path) -> None:
    """Copy what comes before training, and write untrained weights; whole or not at all, lest the job should train.

    Args:
        source: a local store that holds RoIs.
        values: the settings that made them.
        folder: the copy; must not exist.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in _BEFORE_TRAINING:
        shutil.copytree(source.root.local / name, partial / name)
    shutil.copy2(source.root.local / MARKER, partial / MARKER)
    config = build({**values, "execution.store": str(partial)})
    write_in_place_of_training(config, Store(partial), fresh_weights(config))
    partial.rename(folder)
