"""The protocols on frozen features of images with several labels each, from files to rows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.environment import numeric_environment
from orl_ray.evaluation import low_shot, voc_svm
from orl_ray.evaluation.classifier_job import Judged
from orl_ray.evaluation.frozen_features import VECTOR, frozen_features
from orl_ray.evaluation.knn import knn_scores, unit_rows
from orl_ray.evaluation.multilabel_layouts import PRESENT, MultiLabelImages, coco, voc07
from orl_ray.evaluation.rows import Row, Score, over_seeds

VIEW = "shorter side to 256, whole image warped to 224 x 224"


@dataclass(frozen=True, slots=True)
class MultiLabelData:
    """Which images, without what cannot be scored.

    Attributes:
        name: the data set.
        train: what is fitted on.
        test: what is scored, with the same classes.
        left_out: classes with too few images on a side.
    """

    name: str
    train: MultiLabelImages
    test: MultiLabelImages
    left_out: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Name the data by what is in it."""
        splits = {"train": self.train.content(), "test": self.test.content()}
        return {"set": self.name, **splits, "left_out": list(self.left_out)}


def read_voc07(root: Path) -> MultiLabelData:
    """Read VOC 2007, trainval and test.

    Raises:
        ValueError: files are missing or do not go together.
    """
    return _usable("voc07", voc07(root, "trainval"), voc07(root, "test"))


def read_coco(images: Path, annotations: Path, splits: Path) -> MultiLabelData:
    """Read a COCO JSON whose splits ``train`` and ``test`` are in a file.

    Raises:
        ValueError: files are missing or do not go together.
    """
    train, test = (coco(images, annotations, splits, split) for split in ("train", "test"))
    return _usable("coco", train, test)


def svm_row(
    data: MultiLabelData, judged: Judged, features: Sequence[str], seeds: Sequence[int], compute: "Compute"
) -> Row:
    """Score full linear SVMs on each feature.

    Args:
        data: the images.
        judged: the backbone.
        features: names of features; ``res5`` is the published one.
        seeds: seeds of the solver, and of untrained weights.
        compute: where and how widely.
    """
    details: dict[str, Any] = {}
    by_seed = []
    for seed, train, test in _embedded(data, judged, features, seeds, compute):
        values = {}
        for name in features:
            result = voc_svm.voc_svm(
                train[name],
                data.train.targets,
                test[name],
                data.test.targets,
                data.train.classes,
                seed=seed,
                jobs=compute.jobs,
            )
            values[f"map {name}"] = result.mean_average_precision
            details[f"{name}, seed {seed}"] = {label: asdict(of_class) for label, of_class in result.classes.items()}
        by_seed.append(values)
    protocol = {"name": "svm", "data": data.describe(), "view": VIEW, "features": list(features), **voc_svm.describe()}
    return _row(protocol, judged, seeds, over_seeds(by_seed), details, compute)


def low_shot_row(
    data: MultiLabelData, judged: Judged, feature: str, shots: Sequence[int], seeds: Sequence[int], compute: "Compute"
) -> Row:
    """Score low-shot SVMs, with the cost chosen in both ways.

    Args:
        data: the images.
        judged: the backbone.
        feature: the name of the feature; ``res5`` is the published one.
        shots: sizes of the samples.
        seeds: each draws five samples of its own.
        compute: where and how widely.
    """
    details: dict[str, Any] = {}
    ours: list[dict[str, float]] = []
    published: list[dict[str, float]] = []
    for seed, train, test in _embedded(data, judged, [feature], seeds, compute):
        results = low_shot.low_shot(
            train[feature],
            data.train.targets,
            test[feature],
            data.test.targets,
            data.train.classes,
            seed=seed,
            shots=shots,
            jobs=compute.jobs,
        )
        for way, gathered in (("ours", ours), ("published", published)):
            chosen = {f"map {way}, {result.shots} shots": getattr(result, way).to_json() for result in results}
            gathered.append({name: entry["mean"] for name, entry in chosen.items()})
            details.update({f"{name}, seed {seed}": entry for name, entry in chosen.items()})
    constants = low_shot.describe(shots, len(data.train.classes))
    protocol = {"name": "low-shot", "data": data.describe(), "view": VIEW, "features": [feature], **constants}
    scores = (*over_seeds(ours), *over_seeds(published, "the cost is chosen on the test split, as published"))
    return _row(protocol, judged, seeds, scores, details, compute)


def knn_row(data: MultiLabelData, judged: Judged, k: int, temperature: float, compute: "Compute") -> Row:
    """Score multi-label k-NN on the pooled vector (``knn.py``); nothing is drawn but untrained weights.

    An image for which neither can be said counts as one without the class among the neighbours, and is left out of the
    score.

    Args:
        data: the images.
        judged: the backbone.
        k: neighbours.
        temperature: of their weights.
        compute: where.
    """
    ((_, train, test),) = _embedded(data, judged, [VECTOR], (0,), compute)
    scores = knn_scores(
        unit_rows(train[VECTOR]), data.train.targets == PRESENT, unit_rows(test[VECTOR]), k, temperature
    )
    by_class = {
        name: voc_svm.score_known(scores[:, column], data.test.targets[:, column])
        for column, name in enumerate(data.test.classes)
    }
    protocol = {
        "name": "knn",
        "data": data.describe(),
        "view": VIEW,
        "features": [VECTOR],
        "k": k,
        "temperature": temperature,
        "similarity": "cosine",
        "weight": "exp(similarity / temperature)",
        "score": "weighted share of the neighbours that show the class",
        "ignored": {"neighbours": "without the class", "test": "left out"},
        "metric": {"average_precision": "monotone envelope", "ties": "one threshold", "over_classes": "mean"},
    }
    score = Score(f"map {VECTOR}", (float(np.mean(list(by_class.values()))),))
    return _row(protocol, judged, (0,), (score,), {"classes": by_class}, compute)


@dataclass(frozen=True, slots=True)
class Compute:
    """Where features are computed, and how widely SVMs are fitted; changes no protocol.

    Attributes:
        device: of the network.
        threads: threads that decode.
        jobs: processes that fit SVMs.
    """

    device: torch.device
    threads: int
    jobs: int


def _usable(name: str, train: MultiLabelImages, test: MultiLabelImages) -> MultiLabelData:
    if train.classes != test.classes:
        raise ValueError(f"{name}: training and test split have other classes")
    kept = voc_svm.usable_classes(train.targets, test.targets)
    if not kept.any():
        raise ValueError(f"{name}: no class has {voc_svm.FOLDS} training images with and without it and a test image")
    names = tuple(label for label, keep in zip(train.classes, kept, strict=True) if keep)
    left_out = tuple(label for label, keep in zip(train.classes, kept, strict=True) if not keep)
    train, test = (MultiLabelImages(split.paths, split.targets[:, kept], names) for split in (train, test))
    return MultiLabelData(name, train, test, left_out)


def _embedded(
    data: MultiLabelData, judged: Judged, features: Sequence[str], seeds: Sequence[int], compute: Compute
) -> list[tuple[int, dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]]:
    """Embed both splits for each seed; only untrained weights differ between seeds."""
    found: list[tuple[int, dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]] = []
    for seed in seeds:
        if found and judged.is_trained:
            found.append((seed, *found[0][1:]))
            continue
        encoder = FrozenEncoder(judged.load(seed), None, compute.device, torch.float32)
        train, test = (
            frozen_features(encoder, split.paths, features, compute.threads) for split in (data.train, data.test)
        )
        found.append((seed, train, test))
    return found


def _row(
    protocol: dict[str, Any],
    judged: Judged,
    seeds: Sequence[int],
    scores: Sequence[Score],
    details: dict[str, Any],
    compute: Compute,
) -> Row:
    protocol = {**protocol, "backbone": judged.name, "precision": "float32"}
    environment = numeric_environment(compute.device.type)
    return Row(protocol, judged.identity(), tuple(seeds), tuple(scores), details, environment)
