"""The evaluation of frozen encoders on multi-label images: which images and classes count, and which probes run.

Every arm (an encoder) is probed on the same images with the same folds, costs and bootstrap samples, so that arms
differ by their features alone. All constants are in :func:`describe`, and their hash goes with every number.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray import config
from orl_ray.evaluation import bootstrap, knn, svm
from orl_ray.evaluation.average_precision import mean_average_precision
from orl_ray.evaluation.result import Difference, Result, Score

VERSION = 2
ARMS = ("object_level", "image_level", "untrained")  # differences are taken from left to right; other arms come last
METRICS = ("knn_map", "svm_map")

Scores = dict[str, NDArray[np.float64]]


class NothingToScoreError(ValueError):
    """There are too few images to fit on or to score: the collection is too small, not the input broken."""


def evaluate(
    features: Mapping[str, NDArray[np.float32]],
    image_ids: NDArray[np.int64],
    group_ids: NDArray[np.int64],
    present: NDArray[np.bool_],
    classes: tuple[str, ...],
    *,
    fit_mask: NDArray[np.bool_],
    score_mask: NDArray[np.bool_],
    settings: config.Evaluation,
    seed: int,
) -> Result:
    """Probe every arm by k-NN and by SVM and compare the arms.

    Args:
        features: for each arm (n, D) float32 of the same images; D may differ from arm to arm.
        image_ids: (n,) int64, each once. The order of the rows does not matter.
        group_ids: (n,) int64 groups of near-duplicates; none of them both fitted and scored.
        present: (n, C) bool, whether an image shows a class.
        classes: C names.
        fit_mask: (n,) bool, the images that probes are fitted on.
        score_mask: (n,) bool, the images that are scored; none of them fitted.
        settings: the run's evaluation settings.
        seed: the run's seed.

    Returns:
        Scores, differences, and everything that is needed to read them.

    Raises:
        ValueError: inputs do not go together, or a feature is not finite.
        NothingToScoreError: no class has enough images to be scored, or fewer are fitted on than k-NN asks for.
    """
    _check(features, image_ids, group_ids, present, classes, fit_mask, score_mask)
    split, left_out = _split(
        image_ids, group_ids, present, classes, fit_mask, score_mask, min_positives=settings.min_positives
    )
    if len(split.fit) < settings.knn_k:
        raise NothingToScoreError(
            f"evaluation: {len(split.fit)} images to fit on, but k-NN takes {settings.knn_k} neighbours; "
            "give more labelled images or lower evaluation.knn_k"
        )
    by_metric, unconverged = _probe(features, split, settings, seed)
    rows, differences = _compare(by_metric, split, settings.bootstrap, seed)
    protocol = describe(settings, seed)
    return Result(
        rows=rows,
        differences=differences,
        classes=split.names,
        left_out=left_out,
        positives={name: int(count) for name, count in zip(split.names, split.truth.sum(axis=0), strict=True)},
        fit_images=len(split.fit),
        scored_images=len(split.scored),
        prevalence=float(split.truth.mean(axis=0).mean()),
        svm_unconverged=unconverged,
        protocol=protocol,
        protocol_hash=protocol_hash(protocol),
    )


def describe(settings: config.Evaluation, seed: int) -> dict[str, Any]:
    """List every constant and setting of the evaluation.

    Args:
        settings: the run's evaluation settings.
        seed: the run's seed, which draws folds and bootstrap samples.

    Returns:
        JSON-able nested dicts.
    """
    return {
        "version": VERSION,
        "seed": seed,
        "settings": asdict(settings),
        "average_precision": {"envelope": "monotone", "ties": "one threshold"},
        "knn": {
            "similarity": "cosine",
            "weight": "exp(similarity / temperature)",
            "score": "weighted share of the neighbours",
        },
        "svm": {
            "classifier": "LinearSVC",
            "folds_by": "group of near-duplicates",
            "penalty": "l2",
            "loss": "squared_hinge",
            "dual": True,
            "costs": list(svm.COSTS),
            "folds": svm.FOLDS,
            "tolerance": svm.TOLERANCE,
            "max_iterations": svm.MAX_ITERATIONS,
            "class_weights": {"present": svm.CLASS_WEIGHTS[1], "absent": svm.CLASS_WEIGHTS[-1]},
            "intercept_scaling": svm.INTERCEPT_SCALING,
            "length_floor": svm.LENGTH_FLOOR,
        },
        "classes": {"fitted_of_each_side": svm.LEAST_OF_EACH, "scored_of_each_side": settings.min_positives},
        "bootstrap": {"paired": True, "interval": "basic", "quantiles": list(bootstrap.QUANTILES)},
    }


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """Hash a protocol by its canonical JSON.

    Args:
        protocol: what :func:`describe` returns.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Split:
    """Rows that are fitted and scored, in id order, and their labels for the scored classes."""

    fit: NDArray[np.int64]
    fit_ids: NDArray[np.int64]
    fit_groups: NDArray[np.int64]
    fit_present: NDArray[np.bool_]
    scored: NDArray[np.int64]
    truth: NDArray[np.bool_]
    names: tuple[str, ...]


def _split(
    image_ids: NDArray[np.int64],
    group_ids: NDArray[np.int64],
    present: NDArray[np.bool_],
    classes: tuple[str, ...],
    fit_mask: NDArray[np.bool_],
    score_mask: NDArray[np.bool_],
    *,
    min_positives: int,
) -> tuple[_Split, dict[str, str]]:
    order = np.argsort(image_ids, kind="stable")
    fit, scored = order[fit_mask[order]], order[score_mask[order]]
    left_out = _left_out(present[fit], present[scored], classes, min_positives)
    kept = [column for column, name in enumerate(classes) if name not in left_out]
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise NothingToScoreError(
            f"evaluation: no class has enough images to be scored ({reasons}); "
            "give more labelled images or lower evaluation.min_positives"
        )
    names = tuple(classes[column] for column in kept)
    of_fitted = (fit, image_ids[fit], group_ids[fit], present[fit][:, kept])
    return _Split(*of_fitted, scored, present[scored][:, kept], names), left_out


def _probe(
    features: Mapping[str, NDArray[np.float32]], split: _Split, settings: config.Evaluation, seed: int
) -> tuple[dict[str, Scores], dict[str, int]]:
    by_metric: dict[str, Scores] = {metric: {} for metric in METRICS}
    unconverged = {}
    for arm, vectors in features.items():
        unit = knn.unit_rows(vectors)
        by_metric["knn_map"][arm] = knn.knn_scores(
            unit[split.fit], split.fit_present, unit[split.scored], settings.knn_k, settings.knn_temperature
        )
        separated = svm.svm_scores(
            vectors[split.fit],
            split.fit_present,
            vectors[split.scored],
            fit_ids=split.fit_ids,
            fit_groups=split.fit_groups,
            classes=split.names,
            seed=seed,
        )
        by_metric["svm_map"][arm] = separated.scores
        unconverged[arm] = separated.unconverged
    return by_metric, unconverged


def _compare(
    by_metric: Mapping[str, Scores], split: _Split, samples: int, seed: int
) -> tuple[tuple[Score, ...], tuple[Difference, ...]]:
    rows, differences = [], []
    everything = np.ones(len(split.names), dtype=np.bool_)
    for metric, by_arm in by_metric.items():
        arms = sorted(by_arm, key=lambda arm: (ARMS.index(arm) if arm in ARMS else len(ARMS), arm))
        of_arm, of_pair = bootstrap.intervals(
            {arm: by_arm[arm] for arm in arms}, split.truth, list(combinations(arms, 2)), samples, seed
        )
        for arm, interval in of_arm.items():
            values = mean_average_precision(by_arm[arm], split.truth, everything)[1]
            per_class = dict(zip(split.names, values.tolist(), strict=True))
            rows.append(Score(arm, metric, interval.value, interval.low, interval.high, per_class))
        differences += [
            Difference(arm, baseline, metric, interval.value, interval.low, interval.high)
            for (arm, baseline), interval in of_pair.items()
        ]
    return tuple(rows), tuple(differences)


def _left_out(
    fit_present: NDArray[np.bool_], scored_present: NDArray[np.bool_], classes: tuple[str, ...], min_positives: int
) -> dict[str, str]:
    """Say why classes cannot be scored.

    Negatives count like positives: a class that nearly every image shows says as little as a rare one.
    """
    reasons = {}
    for column, name in enumerate(classes):
        sides = (
            (scored_present[:, column], min_positives, "positives", "scored"),
            (~scored_present[:, column], min_positives, "negatives", "scored"),
            (fit_present[:, column], svm.LEAST_OF_EACH, "positives", "fitted"),
            (~fit_present[:, column], svm.LEAST_OF_EACH, "negatives", "fitted"),
        )
        for members, least, side, images in sides:
            if members.sum() < least:
                reasons[name] = f"{int(members.sum())} {side} among the {images} images, fewer than {least}"
                break
    return reasons


def _check(
    features: Mapping[str, NDArray[np.float32]],
    image_ids: NDArray[np.int64],
    group_ids: NDArray[np.int64],
    present: NDArray[np.bool_],
    classes: tuple[str, ...],
    *masks: NDArray[np.bool_],
) -> None:
    count = len(image_ids)
    if len(np.unique(image_ids)) != count:
        raise ValueError("evaluation: image ids repeat; each image must come once")
    if present.shape != (count, len(classes)) or any(mask.shape != (count,) for mask in (group_ids, *masks)):
        raise ValueError(
            f"evaluation: {count} images and {len(classes)} classes, but labels {present.shape}, groups "
            f"{group_ids.shape} and masks {[mask.shape for mask in masks]}"
        )
    both = int(np.logical_and.reduce(masks).sum())
    if both:
        raise ValueError(f"evaluation: {both} images are both fitted on and scored; the masks must not overlap")
    straddling = np.intersect1d(group_ids[masks[0]], group_ids[masks[1]])
    if straddling.size:
        raise ValueError(f"evaluation: images of group {straddling[0]} are fitted on and others of it scored")
    if not features:
        raise ValueError("evaluation: no features were given; name at least one encoder")
    for arm, vectors in features.items():
        if vectors.ndim != 2 or len(vectors) != count:
            raise ValueError(f"evaluation: the features of {arm!r} have shape {vectors.shape}, expected ({count}, D)")
        broken = int((~np.isfinite(vectors).all(axis=1)).sum())
        if broken:
            raise ValueError(
                f"evaluation: {broken} images have NaN or infinite features under {arm!r}; its training went wrong"
            )
