"""What adding photographs to a finished run costs with the encoder and the centroids frozen, and whether it is exact.

``python -m benchmarks.grow_collection [--images 2000] [--added 200] [name=value ...]`` takes photographs from
``coco_pool`` under ``ORL_SCENES`` (or ``../shared/data``), runs the main job up to the RoI pairs on the first
``--images`` of them, adds ``--added``, runs again with ``--rescan freeze=encoder,centroids``, and then mines all of
them afresh in a second store that got the frozen encoder and centroids, and the regions, which do not depend on them
and are most of the time. It prints one line of JSON: images
embedded by the second run, seconds of each run, and how many images have the same neighbours and the same pairs in
both stores, compared row by row.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from orl_ray.storage import Store

_UNTIL = ("--until", "correspondences")
# The encoder's quality does not matter here: a short training is as frozen as a long one.
_SETTINGS = ("source.kind=folder", "source.part_size=500", "image_level.epochs=1", "image_level.warmup_epochs=0.5")


def main() -> int:
    """Grow a collection and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--added", type=int, default=200)
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_args()
    root = Path(os.environ.get("ORL_SCENES", Path(__file__).resolve().parents[2] / "shared" / "data"))
    photographs = sorted((root / "coco_pool" / "images").glob("*.jpg"))[: options.images + options.added]
    if len(photographs) < options.images + options.added:
        print(
            f"skipped: {root} has {len(photographs)} photographs in coco_pool/images, set ORL_SCENES or ask for fewer"
        )
        return 0
    with tempfile.TemporaryDirectory(prefix="orl-grow-") as name:
        folder = Path(name)
        source, grown, fresh = folder / "photographs", Store(folder / "grown"), Store(folder / "fresh")
        source.mkdir()
        settings = [*_SETTINGS, f"source.images={source}", *options.settings]
        _add(photographs[: options.images], source)
        seconds = {"first": _run(grown, settings)}
        _add(photographs[options.images :], source)
        seconds["grown"] = _run(grown, [*settings, "freeze=encoder,centroids", "--rescan"])
        frozen = _hand_over(grown, fresh)
        seconds["fresh"] = _run(fresh, [*settings, f"freeze={frozen}"])
        print(json.dumps({"seconds": seconds, "frozen": frozen, **_compare(grown, fresh)}))
    return 0


def _add(photographs: list[Path], folder: Path) -> None:
    for path in photographs:
        shutil.copy2(path, folder / path.name)


def _run(store: Store, arguments: list[str]) -> float:
    job = Path(__file__).parents[1] / "jobs" / "full_pipeline.py"
    started = time.monotonic()
    command = [sys.executable, str(job), *_UNTIL, f"execution.store={store.root}", *arguments]
    subprocess.run(command, check=True)  # noqa: S603 -- our own job
    return round(time.monotonic() - started, 1)


def _hand_over(grown: Store, fresh: Store) -> str:
    """Copy frozen results and regions into a new store; return the setting that names them by their content."""
    fresh.prepare()
    newest, named = next(grown.runs()), []
    for name, stage in (("encoder", "image_level"), ("centroids", "centroids")):
        pin = newest["pins"][stage]
        for record in grown.manifest(stage, pin["key"]) or []:
            shutil.copytree(grown.part_folder(stage, record.key).local, fresh.part_folder(stage, record.key).local)
            fresh.write_json(f"{stage}/{record.key}.json", grown.read_json(f"{stage}/{record.key}.json"))
        fresh.write_json(
            f"{stage}/manifests/{pin['key']}.json", grown.read_json(f"{stage}/manifests/{pin['key']}.json")
        )
        named.append(f"{name}@{pin['content_hash']}")
    for artifact in ("proposals", "rois"):
        shutil.copytree(grown.root.local / artifact, fresh.root.local / artifact)
    return ",".join(named)


def _compare(grown: Store, fresh: Store) -> dict[str, Any]:
    run = next(grown.runs())
    made = run["stages"]["image_embeddings"]["made_here"]
    parts = run["stages"]["image_embeddings"]["parts"]
    newest = [parts[index] for index in sorted(parts, key=int)][-made:] if made else []
    result: dict[str, Any] = {"images_embedded_by_the_second_run": 0, "images_in_all": 0}
    for key in parts.values():
        record = grown.record("image_embeddings", key)
        if record is not None:
            result["images_in_all"] += record.rows
            result["images_embedded_by_the_second_run"] += record.rows if key in newest else 0
    for artifact in ("neighbors", "correspondences"):
        ours, theirs = _rows(grown, artifact), _rows(fresh, artifact)
        same = sum(ours[image_id] == theirs.get(image_id) for image_id in ours)
        result[f"images_with_the_same_{artifact}"] = f"{same} of {len(ours)} and {len(theirs)}"
    return result


def _rows(store: Store, artifact: str) -> dict[int, list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for key in next(store.runs())["stages"][artifact]["parts"].values():
        for row in store.read_table(artifact, key).to_pylist():
            rows.setdefault(row["image_id"], []).append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
