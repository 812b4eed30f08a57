"""The backbone of a finished training, and what its store tells of it."""

import json
from dataclasses import dataclass
from typing import Any

from orl_ray.embeddings.encoder import load_weights
from orl_ray.encoders.backbones import Backbone
from orl_ray.encoders.weight_files import encoder_from
from orl_ray.evaluation.result import Result
from orl_ray.evaluation.stages import RESULT
from orl_ray.pins import IMAGE_LEVEL, OBJECT_LEVEL, Pin, find_result
from orl_ray.pipeline import collection_hash
from orl_ray.storage import PartRecord, Store

TRAININGS = (OBJECT_LEVEL, IMAGE_LEVEL)


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained backbone and its origin.

    Attributes:
        stage: ``object_level`` or ``image_level``.
        architecture: ``resnet18`` or ``resnet50``.
        backbone: the online backbone, in evaluation mode, on the CPU.
        content_hash: of the training's result.
        record: of the training's result.
        run: the record of the run that it was taken from, or of the newest run that used it; None where no run did.
        evaluation: what that run scored, None where it scored nothing.
    """

    stage: str
    architecture: str
    backbone: Backbone
    content_hash: str
    record: PartRecord
    run: dict[str, Any] | None
    evaluation: Result | None

    def setting(self, name: str, unknown: Any = None) -> Any:
        """Return a setting of the run by its full name, such as ``embeddings.image_crop``."""
        return unknown if self.run is None else self.run["config"].get(name, unknown)


def find_trained(store: Store, wanted: str = OBJECT_LEVEL, run_id: str = "") -> Trained:
    """Find a trained backbone in a store.

    Args:
        store: the store.
        wanted: ``object_level`` or ``image_level``; with ``@`` and the beginning of a content hash behind it, that one
            and no other. Without, the one that the run, or the newest run that has one, used.
        run_id: a run, such as that of one of several rounds; empty looks at all.

    Raises:
        ValueError: there is no such result or run.
        StoreError: its files are gone or changed.
    """
    stage, _, content = wanted.partition("@")
    if stage not in TRAININGS:
        raise ValueError(f"there is no training {stage!r}; name one of {', '.join(TRAININGS)}")
    run = _run(store, run_id) if run_id else None
    result = _result_of_run(store, run, stage) if run else find_result(store, stage, content)
    if result is None or not result.content_hash.startswith(content):
        where = f"run {run_id} of {store.root}" if run_id else str(store.root)
        raise ValueError(f"{where} has no finished {wanted}")
    found = encoder_from(load_weights(store, stage, result.key))
    run = run or _newest_run(store, stage, result.content_hash)
    return Trained(
        stage,
        found.architecture,
        found.backbone.eval(),
        result.content_hash,
        result.records[0],
        run,
        _evaluation(store, run),
    )


def _run(store: Store, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] | None = store.read_json(f"runs/{run_id}.json")
    if run is None:
        raise ValueError(f"there is no run {run_id} in {store.root}")
    return run


def _result_of_run(store: Store, run: dict[str, Any], stage: str) -> Pin | None:
    entry = run["stages"].get(stage)
    records = store.manifest(stage, entry["key"]) if entry and entry["content_hash"] else None
    return Pin(stage, entry["key"], collection_hash(records), tuple(records)) if records else None


def _newest_run(store: Store, stage: str, content_hash: str) -> dict[str, Any] | None:
    """Return the newest run that used a result, one that evaluated it before one that did not."""
    using = None
    for run in store.runs(None):
        if run["stages"].get(stage, {}).get("content_hash") == content_hash:
            if run["stages"].get("evaluation", {}).get("content_hash"):
                return run
            using = using or run
    return using


def _evaluation(store: Store, run: dict[str, Any] | None) -> Result | None:
    entry = run["stages"].get("evaluation") if run else None
    records = store.manifest("evaluation", entry["key"]) if entry and entry["content_hash"] else None
    if not records:
        return None
    plain = json.loads(store.read_file("evaluation", records[0].key, RESULT))
    return None if "not_scored" in plain else Result.from_json(plain)
