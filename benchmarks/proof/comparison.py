"""All arms of one seed, in order, from what a work folder holds already to the result as JSON."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.pair_objects import Objects, Paired, tally
from benchmarks.pair_quality import read_objects
from benchmarks.proof.arms import ARMS, BASELINE, EQUAL_FLOPS, Arm
from benchmarks.proof.discovery import Discovery, mine, write_regions
from benchmarks.proof.flops import byol_flops, orl_flops, supervised_flops
from benchmarks.proof.pairs import oracle_pairs, random_pairs, write_with_pairs
from benchmarks.proof.scoring import SPLIT, difference, score
from benchmarks.proof.training import measurements, train_arm, trained_weights
from orl_ray import config
from orl_ray.evaluation.protocol import METRICS
from orl_ray.evaluation.result import Result
from orl_ray.folders import Folder
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.scenes.generated import write_collection
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.labels import read_labels
from orl_ray.scenes.shapes import CLASSES
from orl_ray.settings import Value, known_settings
from orl_ray.storage import canonical_digest

ANNOTATIONS = "instances.json"
VERSION = 1  # raised when arms of an earlier version may not be re-used


def compare(settings: config.Config, work: Path, probe_scenes: int) -> dict[str, Any]:
    """Train and score all arms.

    Args:
        settings: of all arms; the store and everything else lie in a folder of their own for these settings.
        work: what is finished there is taken over.
        probe_scenes: scenes of the validation split to render.

    Returns:
        JSON-able: see :func:`summary`.
    """
    folder = work / f"seed-{settings.seed}-{_identity(settings)}"
    scenes, regions = folder / "train", folder / "sets" / "none"
    write_collection(scenes, settings.seed, "train", settings.generated.images, settings.generated.side)
    write_regions(settings, scenes / "images", regions)
    train = partial(_train, settings, folder)
    for arm in ARMS[:2]:  # untrained, and what mining needs
        train(arm, settings.image_level)
    found = mine(settings, TrainingSet.open(regions), trained_weights(folder / BASELINE))

    def annotated() -> dict[int, Objects]:
        return read_objects(scenes / ANNOTATIONS, found.sizes, None)

    pairs = pairs_of_arms(found, annotated, settings.seed)
    for kind, entries in pairs.items():
        write_with_pairs(TrainingSet.open(regions), entries, folder / "sets" / kind)
    costs = Costs.of(settings, found)
    longer = replace(settings.image_level, epochs=costs.equal_epochs)
    for arm in ARMS[2:]:
        own = settings.object_level if arm.method == "orl" else longer if arm.equal_flops else settings.image_level
        train(arm, own)
    weights = {arm.name: trained_weights(folder / arm.name) for arm in ARMS}
    result = score(settings, weights, folder / SPLIT, probe_scenes)
    quality = pair_quality(pairs, annotated(), sorted(found.rois))
    histories = {arm.name: measurements(folder / arm.name) for arm in ARMS}
    return summary(settings, result, quality, costs, histories, sum(map(len, found.rois.values())))


def pairs_of_arms(
    found: Discovery, read_objects: Callable[[], Mapping[int, Objects]], seed: int
) -> dict[str, list[Paired]]:
    """Return the pairs that each kind of ORL trains on. Annotations are read for ``oracle`` alone."""
    return {
        "mined": found.pairs,
        "random": random_pairs(found.pairs, found.rois, found.sizes, seed),
        "oracle": oracle_pairs(found.pairs, found.rois, read_objects(), seed),
    }


def pair_quality(
    pairs: Mapping[str, list[Paired]], objects: Mapping[int, Objects], images: list[int]
) -> dict[str, dict[str, float]]:
    """Return of each kind the pairs, the images that have any, and two means over these images.

    ``objects`` is the share of pairs whose two regions are objects, ``same_class`` of pairs that show one class.
    """
    result = {}
    for kind, entries in pairs.items():
        counted = tally(entries, objects, images)
        result[kind] = {
            "pairs": counted.pairs,
            "images": int((~np.isnan(counted.both)).sum()),
            "objects": round(float(np.nanmean(counted.both)), 4),
            "same_class": round(float(np.nanmean(counted.same)), 4),
        }
    return result


@dataclass(frozen=True, slots=True)
class Costs:
    """FLOPs.

    Attributes:
        orl: of ORL's stage 1, embedding and stage 3.
        byol_epoch: of one epoch of BYOL.
        supervised: of the supervised training.
        equal_epochs: epochs of BYOL that cost what ORL costs in all.
    """

    orl: Mapping[str, float]
    byol_epoch: float
    supervised: float
    equal_epochs: float

    @classmethod
    def of(cls, settings: config.Config, found: Discovery) -> "Costs":
        """Count them for the images and RoIs of a collection."""
        images, rois = len(found.rois), sum(map(len, found.rois.values()))
        orl = orl_flops(settings, images, rois)
        epoch = byol_flops(settings.encoder, settings.image_level) * images
        supervised = supervised_flops(settings.encoder, settings.image_level, len(CLASSES))
        supervised *= settings.image_level.epochs * images
        return cls(orl, epoch, supervised, round(sum(orl.values()) / epoch, 2))

    def of_arm(self, arm: Arm, settings: config.Config) -> tuple[float, float]:
        """Return the FLOPs of an arm's own training, and of all that it needs."""
        if arm.method == "orl":
            return self.orl["stage_3"], sum(self.orl.values())
        epochs = self.equal_epochs if arm.equal_flops else settings.image_level.epochs
        own = {"untrained": 0.0, "byol": self.byol_epoch * epochs, "supervised": self.supervised}[arm.method]
        return own, own


def summary(
    settings: config.Config,
    result: Result,
    quality: Mapping[str, Mapping[str, float]],
    costs: Costs,
    histories: Mapping[str, list[dict[str, float]]],
    rois: int,
) -> dict[str, Any]:
    """Put together what the table shows and what reading it takes, as JSON-able dicts."""
    arms = []
    for arm in ARMS:
        own, total = costs.of_arm(arm, settings)
        row: dict[str, Any] = {"arm": arm.name, "meaning": arm.meaning, "reads_labels": arm.reads_labels}
        row |= {"gflops": round(own / 1e9), "gflops_in_all": round(total / 1e9)}
        if histories[arm.name]:
            row |= {"last": {name: round(value, 4) for name, value in histories[arm.name][-1].items()}}
        for metric in METRICS:
            scored = next(entry for entry in result.rows if (entry.arm, entry.metric) == (arm.name, metric))
            row[metric] = _rounded(scored.value, scored.low, scored.high)
            for baseline in (BASELINE, EQUAL_FLOPS):
                if arm.name != baseline:
                    row[f"{metric}_minus_{baseline}"] = _rounded(*difference(result, arm.name, baseline, metric))
        arms.append(row)
    return {
        "version": VERSION,
        "seed": settings.seed,
        "settings": _semantic(settings),
        "epochs": {BASELINE: settings.image_level.epochs, EQUAL_FLOPS: costs.equal_epochs},
        "rois": rois,
        "pairs": quality,
        "fit_scenes": result.fit_images,
        "scored_scenes": result.scored_images,
        "prevalence": round(result.prevalence, 4),
        "classes": list(result.classes),
        "left_out": result.left_out,
        "protocol_hash": result.protocol_hash,
        "arms": arms,
    }


def _train(settings: config.Config, folder: Path, arm: Arm, own: config.Pretraining) -> None:
    training_set = TrainingSet.open(folder / "sets" / arm.pairs)

    def read() -> Tensor:
        labels = read_labels([JsonFile(Folder(folder / "train"), ANNOTATIONS)])
        return torch.from_numpy(labels.present(training_set.image_ids)).float()

    train_arm(arm, own, settings, training_set, folder / arm.name, read)


def _semantic(settings: config.Config) -> dict[str, Value]:
    known = known_settings()
    return {name: value for name, value in config.flatten(settings).items() if known[name].metadata["semantic"]}


def _identity(settings: config.Config) -> str:
    """Name what determines the arms; how they are scored does not."""
    values = {
        name: value for name, value in _semantic(settings).items() if not name.startswith(("evaluation.", "report."))
    }
    return canonical_digest([VERSION, values])[:8]


def _rounded(*values: float) -> list[float]:
    return [round(value, 4) for value in values]
