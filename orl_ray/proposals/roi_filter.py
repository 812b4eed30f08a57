"""The greedy filter that turns ranked proposals into an image's regions of interest (RoIs).

The rule is the reference's ``box_filter`` (Jiahao000/ORL @ 2ad64f7, ``datasets/correspondence.py``): faithful for a
given order of the boxes. Sizes, aspects and overlaps are compared as it does, as float64 quotients of integers:
``inter / (a + b - inter) <= max_iou``. Division is correctly rounded, and a quotient of integers below 10^14 that
differs from a short decimal does so by more than rounding can hide; so ``<=`` decides ties exactly as rational
arithmetic would, also at thresholds such as 0.7. Areas are int64 and do not overflow for any int32 boxes.
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
    from orl_ray.proposals.greedy_filter import keep_greedily  # imports numba

    divisor, least = (min(width, height), settings.min_share) if settings.min_share > 0 else (1, settings.min_size)
    limits = (settings.max_aspect, settings.max_iou, settings.max_rois)
    kept = keep_greedily(np.ascontiguousarray(boxes, np.int32), divisor, least, *limits)
    index = kept if kept.size else np.zeros(1, np.int32)
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
