"""Random boxes for views: random resized crops, and the jitter that gives a RoI its second box."""

import math

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws

_CROP_ATTEMPTS = 10
_JITTER_ATTEMPTS = 200
_JITTER_SCALE = (0.5, 2.0)
_JITTER_ASPECT = (0.5, 2.0)
_JITTER_SHIFT = 0.5
_JITTER_IOU = 0.5


def random_resized_crops(
    key: int,
    ids: NDArray[np.int64],
    widths: NDArray[np.int64],
    heights: NDArray[np.int64],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> NDArray[np.int32]:
    """Draw one crop an image by torchvision's rule for ``RandomResizedCrop``.

    Ten attempts at a box of random area and log-uniform aspect that fits; then the largest centred box within the
    ratios.

    Args:
        key: key of the stream of draws.
        ids: (n,) int64, the image ids that key the draws.
        widths: (n,) image widths, pixels.
        heights: (n,) image heights, pixels.
        scale: range of the crop's share of the image's area.
        ratio: range of width / height.

    Returns:
        (n, 4) int32 xywh, inside the images.
    """
    widths, heights = np.asarray(widths, np.int64)[:, None], np.asarray(heights, np.int64)[:, None]
    area, aspect, left, top = _attempts(key, ids, _CROP_ATTEMPTS)
    areas = widths * heights * (scale[0] + (scale[1] - scale[0]) * area)
    aspects = np.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * aspect)
    w = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    h = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    fits = (w > 0) & (w <= widths) & (h > 0) & (h <= heights)
    x = np.floor(left * (widths - w + 1)).astype(np.int64)
    y = np.floor(top * (heights - h + 1)).astype(np.int64)
    return _first_accepted(np.stack([x, y, w, h], axis=2), fits, _centred_crops(widths[:, 0], heights[:, 0], ratio))


def jitter_boxes(
    key: int, ids: NDArray[np.int64], boxes: NDArray[np.int32], widths: NDArray[np.int64], heights: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Draw a second box near each box (specification 3.3; Jiahao000/ORL, datasets/orl.py).

    Up to 200 attempts: area U(0.5, 2) of the old one, log-uniform aspect in (1/2, 2) as an absolute ratio, centre moved
    by up to half a side. The first one inside the image with an IoU above 0.5 is taken; without any, the box stays.

    Args:
        key: key of the stream of draws.
        ids: (n,) int64, the image ids that key the draws.
        boxes: (n, 4) int32 xywh, inside the images.
        widths: (n,) image widths, pixels.
        heights: (n,) image heights, pixels.

    Returns:
        (n, 4) int32 xywh.
    """
    area, aspect, right, down = _attempts(key, ids, _JITTER_ATTEMPTS)
    old = np.asarray(boxes, np.int64)
    x, y, w, h = (old[:, column : column + 1] for column in range(4))
    areas = (_JITTER_SCALE[0] + (_JITTER_SCALE[1] - _JITTER_SCALE[0]) * area) * w * h
    aspects = np.exp(math.log(_JITTER_ASPECT[0]) + math.log(_JITTER_ASPECT[1] / _JITTER_ASPECT[0]) * aspect)
    new_w, new_h = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    new_x = np.rint(x + w / 2 + _JITTER_SHIFT * (2 * right - 1) * w - new_w / 2)
    new_y = np.rint(y + h / 2 + _JITTER_SHIFT * (2 * down - 1) * h - new_h / 2)
    candidates = np.stack([new_x, new_y, new_w, new_h], axis=2).astype(np.int64)
    right_edge, bottom_edge = new_x + new_w, new_y + new_h
    inside = (new_x >= 0) & (new_y >= 0)
    inside &= (right_edge <= np.asarray(widths)[:, None]) & (bottom_edge <= np.asarray(heights)[:, None])
    return _first_accepted(candidates, inside & (_ious(candidates, old) > _JITTER_IOU), old)


def _attempts(key: int, ids: NDArray[np.int64], attempts: int) -> NDArray[np.float64]:
    """Draw four numbers in [0, 1) an attempt: (4, n, attempts)."""
    return np.moveaxis(draws.uniform(key, ids, 4 * attempts).reshape(-1, attempts, 4), 2, 0)


def _first_accepted(
    candidates: NDArray[np.int64], accepted: NDArray[np.bool_], fallback: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Take each row's first accepted candidate, (n, attempts, 4) by (n, attempts), or its fall-back (n, 4)."""
    first = candidates[np.arange(len(candidates)), np.argmax(accepted, axis=1)]
    return np.where(np.any(accepted, axis=1)[:, None], first, fallback).astype(np.int32)


def _centred_crops(
    widths: NDArray[np.int64], heights: NDArray[np.int64], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    narrow, wide = widths / heights < ratio[0], widths / heights > ratio[1]
    w = np.where(wide, np.rint(heights * ratio[1]), widths).astype(np.int64)
    h = np.where(narrow, np.rint(widths / ratio[0]), heights).astype(np.int64)
    return np.stack([(widths - w) // 2, (heights - h) // 2, w, h], axis=1)


def _ious(candidates: NDArray[np.int64], old: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the (n, attempts) IoUs of (n, attempts, 4) candidates with their (n, 4) old boxes."""
    old = old[:, None]
    starts = np.maximum(candidates[..., :2], old[..., :2])
    ends = np.minimum(candidates[..., :2] + candidates[..., 2:], old[..., :2] + old[..., 2:])
    common = np.clip(ends - starts, 0, None).prod(axis=2)
    together = candidates[..., 2:].prod(axis=2) + old[..., 2:].prod(axis=2) - common
    ious: NDArray[np.float64] = common / together
    return ious
