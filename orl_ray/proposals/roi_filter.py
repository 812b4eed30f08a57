"""The greedy filter that turns ranked proposals into an image's regions of interest (RoIs).

The rule is the reference's ``box_filter`` (Jiahao000/ORL @ 2ad64f7, ``datasets/correspondence.py``): faithful for a
given order of the boxes. Sizes, aspects and overlaps are compared as float64 quotients of integers. Division is
correctly rounded, and a quotient of integers below 10^9 that differs from a short decimal does so by far more than
2^-53; so ``<=`` decides ties exactly as rational arithmetic would, also at thresholds such as 0.7.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray import config


class RoiSelection(NamedTuple):
    """The RoIs of one image.

    Attributes:
        boxes: (m, 4) int32 xywh in pixels, in the order in which they were kept; m >= 1.
        proposal_index: (m,) int32 positions in the proposals that were filtered.
    """

    boxes: NDArray[np.int32]
    proposal_index: NDArray[np.int32]


def filter_rois(boxes: NDArray[np.int32], width: int, height: int, settings: config.Rois) -> RoiSelection:
    """Keep large, not too elongated proposals that do not overlap much, greedily in the given order.

    A box is kept if both sides reach the smallest side, the longer side is at most ``max_aspect`` times the shorter
    one, and its IoU with every box kept before is at most ``max_iou``. At most ``max_rois`` are kept. If none passes,
    the first proposal is the only RoI.

    Args:
        boxes: (n, 4) int32 xywh proposals of one image, in the order in which they are considered; n >= 1.
        width: the image's width, pixels.
        height: the image's height, pixels.
        settings: thresholds; ``min_share`` > 0 replaces ``min_size`` by that share of the image's short side.

    Returns:
        The RoIs and where they come from.

    Raises:
        ValueError: no boxes, not (n, 4), a box without area, or one that leaves the image.
    """
    _check(boxes, width, height)
    eligible = np.flatnonzero(_has_shape(boxes, min(width, height), settings))
    kept = _suppress(boxes[eligible].astype(np.int64), settings.max_iou, settings.max_rois)
    index = eligible[kept].astype(np.int32) if kept.size else np.zeros(1, np.int32)
    return RoiSelection(boxes[index], index)


def _check(boxes: NDArray[np.int32], width: int, height: int) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (n, 4) xywh, not {boxes.shape}")
    if not len(boxes):
        raise ValueError(
            "the RoI filter needs at least one proposal: an image without proposals has no RoI to fall back on"
        )
    corners = boxes[:, :2].astype(np.int64) + boxes[:, 2:]
    if boxes[:, :2].min() < 0 or boxes[:, 2:].min() < 1 or (corners > (width, height)).any():
        raise ValueError(f"boxes must have an area and lie inside the image of {width} x {height} pixels")


def _has_shape(boxes: NDArray[np.int32], short_side: int, settings: config.Rois) -> NDArray[np.bool_]:
    shorter, longer = boxes[:, 2:].min(axis=1), boxes[:, 2:].max(axis=1)
    large = shorter / short_side >= settings.min_share if settings.min_share > 0 else shorter >= settings.min_size
    fits: NDArray[np.bool_] = large & (longer / shorter <= settings.max_aspect)
    return fits


def _suppress(boxes: NDArray[np.int64], max_iou: float, max_rois: int) -> NDArray[np.int64]:
    """Return the positions of the boxes that greedy suppression keeps, the first ``max_rois`` of them.

    Once a box is kept, every later box that overlaps it too much is struck out in one vector operation; the next box
    still standing overlaps no kept one, so it is kept.
    """
    left, top, right, bottom = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).T
    areas = boxes[:, 2] * boxes[:, 3]
    standing = np.arange(len(boxes))
    kept: list[np.int64] = []
    while standing.size and len(kept) < max_rois:
        first, standing = standing[0], standing[1:]
        kept.append(first)
        across = np.minimum(right[first], right[standing]) - np.maximum(left[first], left[standing])
        down = np.minimum(bottom[first], bottom[standing]) - np.maximum(top[first], top[standing])
        shared = np.maximum(across, 0) * np.maximum(down, 0)
        standing = standing[shared / (areas[first] + areas[standing] - shared) <= max_iou]
    return np.array(kept, dtype=np.int64)
