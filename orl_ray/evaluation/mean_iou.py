"""Mean intersection over union of label maps, kept image by image, so that images can be drawn again.

Summed over all images before the ratio is taken, as PASCAL VOC, ADE20K and COCO-Stuff are scored: IoU of a class is
pixels of both / pixels of either, over the whole set.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orl_ray.evaluation.bootstrap import CHUNK_NUMBERS, sample_weights

IGNORE = 255


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pixels of each class in each image.

    Attributes:
        both: (n, C) int64, pixels that are of the class and are said to be.
        either: (n, C) int64, pixels that are of the class or are said to be.
    """

    both: NDArray[np.int64]
    either: NDArray[np.int64]


def overlap(predicted: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> Overlaps:
    """Count the pixels of one image.

    Args:
        predicted: (H, W) classes, each below ``classes``.
        labels: (H, W) classes, or :data:`IGNORE`, where nothing counts.
        classes: C.

    Returns:
        Counts of one image: (1, C).

    Raises:
        ValueError: shapes differ, or a value is no class.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predicted {predicted.shape} for labels {labels.shape}")
    known = labels != IGNORE
    said, true = predicted[known].astype(np.int64), labels[known].astype(np.int64)
    worst = max(said.max(initial=0), true.max(initial=0))
    if worst >= classes:
        raise ValueError(f"class {worst} of a label map is not one of {classes} classes")
    both = np.bincount(true[said == true], minlength=classes)
    either = np.bincount(true, minlength=classes) + np.bincount(said, minlength=classes) - both
    return Overlaps(both[None], either[None])


def class_iou(overlaps: Overlaps) -> NDArray[np.float64]:
    """Return (C,) IoU over all images; NaN where a class is nowhere, neither true nor said."""
    return _ratio(overlaps.both.sum(0).astype(np.float64), overlaps.either.sum(0).astype(np.float64))


def mean_iou(overlaps: Overlaps) -> float:
    """Return the mean IoU over the classes that are somewhere; NaN where there is none."""
    found = class_iou(overlaps)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def pixel_accuracy(overlaps: Overlaps) -> float:
    """Return the share of the labelled pixels that are said to be what they are; NaN where there is none."""
    right = int(overlaps.both.sum())
    # A pixel that is right is in one class's ``either``, one that is wrong in two.
    pixels = right + (int(overlaps.either.sum()) - right) / 2
    return right / pixels if pixels else float("nan")


def bootstrap_mean_iou(overlaps: Overlaps, samples: int, seed: int) -> NDArray[np.float64]:
    """Return (samples,) mean IoU of drawn sets of images: the same draws for every arm, so differences are paired.

    Args:
        overlaps: of n images.
        samples: how many sets of n images to draw, with replacement.
        seed: of the draws.
    """
    means = np.empty(samples)
    step = max(1, CHUNK_NUMBERS // len(overlaps.both))
    for start in range(0, samples, step):
        numbers = np.arange(start, min(start + step, samples), dtype=np.int64)
        weights = sample_weights(seed, numbers, len(overlaps.both))
        drawn = _ratio(weights @ overlaps.both, weights @ overlaps.either)
        counted = np.isfinite(drawn)
        means[numbers] = np.where(counted, drawn, 0).sum(1) / np.maximum(counted.sum(1), 1)
    return means


def _ratio(both: NDArray[np.float64], either: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full(both.shape, np.nan)
    np.divide(both, either, out=result, where=either > 0)
    return result
