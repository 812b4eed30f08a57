"""Average precision as the VOC SVM protocol computes it: the area under the interpolated precision-recall curve.

The curve is made monotone from the right (each precision is replaced by the largest precision at the same or a higher
recall) and integrated over recall, as in PASCAL VOC since 2010 and in ORL's ``benchmarks/svm_tools`` (Jiahao000/ORL @
2ad64f7).

Ties. Images with the same score enter the curve together, as one threshold. The reference code takes them in the order
in which a sort happens to leave them, so that its value depends on the order of the rows; here it does not, and a
constant scorer gets exactly the share of positives. Without ties the two agree.

Weights. An image may count several times or not at all, which is what a bootstrap sample is: one sort serves all
samples.
"""

import numpy as np
from numpy.typing import NDArray


def average_precision(scores: NDArray[np.floating], positives: NDArray[np.bool_]) -> float:
    """Compute the interpolated average precision of one ranking.

    Args:
        scores: (n,) finite, higher means more likely positive.
        positives: (n,) bool.

    Returns:
        A number in (0, 1].

    Raises:
        ValueError: lengths differ, a score is not finite, or nothing is positive.
    """
    if not np.any(positives):
        raise ValueError("average precision needs at least one positive image, got none")
    weights = np.ones((1, len(scores)), dtype=np.float64)
    return float(weighted_average_precision(scores, positives, weights)[0])


def weighted_average_precision(
    scores: NDArray[np.floating], positives: NDArray[np.bool_], weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Compute the average precision of one ranking under several weightings of its images.

    Args:
        scores: (n,) finite.
        positives: (n,) bool.
        weights: (s, n) at least 0; row s gives how often each image counts in sample s.

    Returns:
        (s,) float64, NaN for a sample that holds no positive.

    Raises:
        ValueError: shapes disagree or a score is not finite.
    """
    scores, positives = np.asarray(scores), np.asarray(positives, dtype=np.bool_)
    if scores.ndim != 1 or positives.shape != scores.shape or weights.ndim != 2 or weights.shape[1] != len(scores):
        raise ValueError(
            f"average precision needs scores (n,), positives (n,) and weights (s, n), "
            f"got {scores.shape}, {positives.shape}, {weights.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("average precision: a score is NaN or infinite; the features behind it are broken")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    counted = np.asarray(weights, dtype=np.float64)[:, order]
    hits = np.cumsum(counted * positives[order], axis=1)[:, last_of_tie]
    taken = np.cumsum(counted, axis=1)[:, last_of_tie]
    return _area(hits, taken)


def mean_average_precision(
    scores: NDArray[np.floating], present: NDArray[np.bool_], classes: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    """Average the precision over the scored classes.

    Args:
        scores: (n, C) finite.
        present: (n, C) bool, whether an image shows a class.
        classes: (C,) bool, the classes that are scored.

    Returns:
        The mean over the scored classes, and (C,) float64 with the value of each class, NaN where it is not scored.

    Raises:
        ValueError: shapes disagree, no class is scored, or a scored class has no positive.
    """
    if scores.shape != present.shape or classes.shape != scores.shape[1:]:
        raise ValueError(
            f"mean average precision needs scores (n, C), present (n, C) and classes (C,), "
            f"got {scores.shape}, {present.shape}, {classes.shape}"
        )
    if not classes.any():
        raise ValueError("mean average precision: no class is to be scored")
    per_class = np.full(len(classes), np.nan)
    for column in np.flatnonzero(classes):
        per_class[column] = average_precision(scores[:, column], present[:, column])
    return float(np.nanmean(per_class)), per_class


def _area(hits: NDArray[np.float64], taken: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integrate the monotone envelope; hits and taken are (s, thresholds) cumulative counts."""
    total = hits[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(taken > 0, hits / taken, 0.0)
        recall = hits / total  # 0 / 0 is NaN: a sample without a positive has no average precision
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    steps = np.diff(recall, axis=1, prepend=0.0)
    area: NDArray[np.float64] = np.sum(steps * envelope, axis=1)
    return area
