"""How well boxes cover the objects of photographs, how far two sets of boxes agree, and what a difference is worth."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from orl_ray.evaluation.bootstrap import sample_weights

Boxes = NDArray[np.int32] | NDArray[np.float64]
NEVER = np.iinfo(np.int64).max
_CHUNK_PAIRS = 1_000_000  # pairs of boxes at a time, about 50 MB


def iou_matrix(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Compute the IoU of every box with every other.

    Args:
        first: (n, 4) xywh.
        second: (m, 4) xywh.

    Returns:
        (n, m) float64.
    """
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=2)
    areas = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3]
    ious: NDArray[np.float64] = shared / (areas - shared)
    return ious


def first_hits(boxes: Boxes, objects: Boxes, least_iou: float = 0.5) -> NDArray[np.int64]:
    """Find the first box, in their order, that finds each object.

    Args:
        boxes: (n, 4) xywh, n >= 0.
        objects: (m, 4) xywh.
        least_iou: the IoU from which an object counts as found.

    Returns:
        (m,) int64 positions in ``boxes``; ``NEVER`` where no box finds an object. So with the first b boxes, those
        objects are found whose position is below b.
    """
    hits = iou_matrix(objects, boxes) >= least_iou
    if not hits.size:
        return np.full(len(objects), NEVER)
    return np.where(hits.any(axis=1), hits.argmax(axis=1), NEVER)


def agreement(ours: Boxes, theirs: Boxes) -> tuple[int, int]:
    """Count those of their boxes that are among ours: exactly, and with an IoU of at least 0.9.

    Args:
        ours: (n, 4) xywh, n >= 1.
        theirs: (m, 4) distinct xywh.

    Returns:
        Both counts, each at most m.
    """
    known = set(map(tuple, ours.tolist()))
    exact = sum(tuple(box) in known for box in theirs.tolist())
    step = max(1, _CHUNK_PAIRS // len(ours))
    chunks = (theirs[start : start + step] for start in range(0, len(theirs), step))
    near = sum(int((first_hits(ours, chunk, 0.9) < NEVER).sum()) for chunk in chunks)
    return exact, near


def recall(found: Sequence[NDArray[np.bool_]]) -> float:
    """Return the share of all images' objects that are found; NaN where there is no object.

    Args:
        found: for each image, which of its objects are found.
    """
    objects = sum(map(len, found))
    return sum(int(image.sum()) for image in found) / objects if objects else float("nan")


def paired_difference(
    ours: Sequence[NDArray[np.bool_]], theirs: Sequence[NDArray[np.bool_]], samples: int, seed: int
) -> dict[str, float]:
    """Compare two recalls of the same objects by a bootstrap over images.

    Args:
        ours: for each image, which of its objects are found.
        theirs: the same of the other side.
        samples: bootstrap samples; each draws as many images as there are, with replacement.
        seed: of the draws.

    Returns:
        ``difference``: ours minus theirs; ``low`` and ``high``: the percentiles of its 95 % interval.
    """
    gained = np.array([float(a.sum()) - float(b.sum()) for a, b in zip(ours, theirs, strict=True)])
    objects = np.array([float(len(image)) for image in ours])
    weights = sample_weights(seed, np.arange(samples, dtype=np.int64), len(objects))
    drawn = weights @ objects
    differences = (weights @ gained)[drawn > 0] / drawn[drawn > 0]
    if not len(differences):
        return dict.fromkeys(("difference", "low", "high"), float("nan"))
    low, high = np.quantile(differences, (0.025, 0.975))
    return {"difference": float(gained.sum() / objects.sum()), "low": float(low), "high": float(high)}


def rounded(values: Mapping[str, float], digits: int = 4) -> dict[str, float | None]:
    """Round figures for a JSON object, in which NaN is null."""
    return {name: None if np.isnan(value) else round(value, digits) for name, value in values.items()}
