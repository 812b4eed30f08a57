"""How good pairs of RoIs are, by the objects that people annotated: rates, and their intervals over images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.proposal_recall import Boxes, iou_matrix
from orl_ray.evaluation.bootstrap import sample_weights

NO_OBJECT = -1
LEAST_IOU = 0.5
_QUANTILES = (0.025, 0.975)


class Objects(NamedTuple):
    """The annotated objects of one image.

    Attributes:
        boxes: (m, 4) float64 xywh, pixels.
        classes: (m,) int64, none of them ``NO_OBJECT``.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]


class Paired(NamedTuple):
    """RoIs of one image that are paired with RoIs of another one.

    Attributes:
        query: id of the image whose pairs these are.
        neighbor: id of the other image.
        query_boxes: (n, 4) int32 xywh.
        neighbor_boxes: (n, 4) int32 xywh.
    """

    query: int
    neighbor: int
    query_boxes: NDArray[np.int32]
    neighbor_boxes: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tally:
    """Shares of each query image's pairs; every array is (images,) float64, NaN where an image has no pair.

    Attributes:
        both: the pairs whose two RoIs are objects.
        same: the pairs whose two RoIs are objects of one class.
        pairs: how many pairs there are in all.
        object_pairs: how many of them have two objects.
    """

    both: NDArray[np.float64]
    same: NDArray[np.float64]
    pairs: int
    object_pairs: int


def classes_of(boxes: Boxes, objects: Objects) -> NDArray[np.int64]:
    """Tell which object each box is.

    Args:
        boxes: (n, 4) xywh.
        objects: of the same image.

    Returns:
        (n,) int64: the class of the object with the largest IoU, the first of equals, where that is at least 0.5; else
        ``NO_OBJECT``.
    """
    if not len(boxes) or not len(objects.boxes):
        return np.full(len(boxes), NO_OBJECT, np.int64)
    ious = iou_matrix(boxes, objects.boxes)
    found: NDArray[np.int64] = np.where(ious.max(axis=1) >= LEAST_IOU, objects.classes[ious.argmax(axis=1)], NO_OBJECT)
    return found


def tally(pairs: Sequence[Paired], objects: Mapping[int, Objects], images: Sequence[int]) -> Tally:
    """Count, for each image, how many of its pairs show two objects, and two of one class.

    Args:
        pairs: of any images.
        objects: image id -> its objects; images without an entry have none.
        images: the query images that count, in the order of the result.
    """
    nothing = Objects(np.empty((0, 4)), np.empty(0, np.int64))
    places = {image: place for place, image in enumerate(images)}
    counts = np.zeros((3, len(images)))
    for entry in pairs:
        if entry.query in places:
            query = classes_of(entry.query_boxes, objects.get(entry.query, nothing))
            neighbor = classes_of(entry.neighbor_boxes, objects.get(entry.neighbor, nothing))
            both = (query != NO_OBJECT) & (neighbor != NO_OBJECT)
            counts[:, places[entry.query]] += len(both), both.sum(), (both & (query == neighbor)).sum()
    of_each = np.where(counts[0] > 0, counts[0], np.nan)
    return Tally(counts[1] / of_each, counts[2] / of_each, int(counts[0].sum()), int(counts[1].sum()))


def object_share(rois: Mapping[int, Boxes], objects: Mapping[int, Objects]) -> float:
    """Return the share of all RoIs that are objects.

    Args:
        rois: image id -> (n, 4) RoIs.
        objects: image id -> its objects; images without an entry have none.
    """
    found = sum(int((classes_of(boxes, objects[i]) != NO_OBJECT).sum()) for i, boxes in rois.items() if i in objects)
    return found / sum(map(len, rois.values()))


def rates(tallies: Mapping[str, Tally], baseline: str, samples: int, seed: int) -> dict[str, dict[str, object]]:
    """Compute the rates of several kinds of pairs, and how far one kind exceeds the others.

    Every image counts once, as training draws an image, then a neighbour, then a pair. Images that lack pairs of any
    kind are left out of all. Intervals are 95 % percentiles of a bootstrap over query images, the same samples for all
    kinds; that two images share a neighbour is left out of account.

    Args:
        tallies: kind -> its tally, all over the same images.
        baseline: the kind from which the others are subtracted.
        samples: bootstrap samples.
        seed: of the samples.

    Returns:
        Kind -> ``pairs`` and ``object_pairs`` of all images, and as [value, low, high]: ``object_hit``, the share of
        pairs whose RoIs are both objects; ``same_class``, the share of those whose classes are equal; and for all but
        the baseline ``object_hit_gain`` and ``same_class_gain``, the baseline's rate minus this kind's. A rate over
        nothing is null.

    Raises:
        ValueError: no image has pairs of every kind.
    """
    held = np.all([~np.isnan(entry.both) for entry in tallies.values()], axis=0)
    if not held.any():
        raise ValueError("no image has pairs of every kind")
    weights = sample_weights(seed, np.arange(samples, dtype=np.int64), int(held.sum()))
    weights = np.vstack([np.ones(weights.shape[1]), weights])  # the images as they are come first
    drawn = {kind: _drawn_rates(entry, held, weights) for kind, entry in tallies.items()}
    result: dict[str, dict[str, object]] = {}
    for kind, values in drawn.items():
        counts = {"pairs": tallies[kind].pairs, "object_pairs": tallies[kind].object_pairs}
        result[kind] = {**counts, **{name: _interval(value) for name, value in values.items()}}
        if kind != baseline:
            for name, value in values.items():
                result[kind][f"{name}_gain"] = _interval(drawn[baseline][name] - value)
    return result


def _drawn_rates(entry: Tally, held: NDArray[np.bool_], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    both, same = weights @ entry.both[held], weights @ entry.same[held]
    shares = np.divide(same, both, out=np.full(len(both), np.nan), where=both > 0)
    return {"object_hit": both / weights.sum(axis=1), "same_class": shares}


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    """Return the first value, and percentiles of the others; null where the first is no number."""
    if np.isnan(values[0]):
        return None
    low, high = np.nanquantile(values[1:], _QUANTILES)
    return [round(float(value), 4) for value in (values[0], low, high)]
