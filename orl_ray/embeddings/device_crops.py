"""All RoIs of an image cut out and resized on the image's device in one call, with Pillow's bits.

Pillow resizes along one axis, rounds to uint8, then resizes along the other and rounds again. Each pass is a sparse
matrix product: an output pixel is a weighted sum of neighbouring pixels, by a triangle that widens with the scale
(``precompute_coeffs`` and ``normalize_coeffs_8bpc`` in Pillow's ``Resample.c``). The weights are whole numbers of 22
bits, so that sums of float64 are exact in any order, and the crops are those of ``scenes.decode.crop_resize`` to the
last bit, on every device.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from orl_ray.embeddings.on_their_way import to_device

_UNIT = 1 << 22
# Bounds what a call holds beside the crops: float64 values of RoIs that are resized along one axis only.
_MOST_VALUES = 1 << 25


class Taps(NamedTuple):
    """What each output pixel of one pass is summed from.

    Attributes:
        sources: (t,) int64 row of the table that a tap reads.
        weights: (t,) float64 whole numbers; those of an output pixel add up to about 2 ** 22.
        starts: (o,) int64; output pixel i owns the taps from starts[i] up to starts[i + 1].
    """

    sources: NDArray[np.int64]
    weights: NDArray[np.float64]
    starts: NDArray[np.int64]


def resize_taps(lengths: NDArray[np.int64], first_rows: NDArray[np.int64], side: int) -> Taps:
    """Compute Pillow's weights of a bilinear resize of several intervals of pixels, each to the same length.

    Args:
        lengths: (n,) pixels of each interval, at least 1.
        first_rows: (n,) row of the table that holds the first pixel of each.
        side: pixels that each becomes.

    Returns:
        Taps of n * side output pixels, interval by interval.
    """
    scale = lengths.astype(np.float64)[:, None] / side
    support = np.maximum(scale, 1.0)  # the triangle widens where an image shrinks, and never narrows
    centre = (np.arange(side) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((centre + support + 0.5).astype(np.int64), lengths[:, None])
    position = first[..., None] + np.arange(int((stop - first).max()))
    inside = position < stop[..., None]
    distance = np.abs((position - centre[..., None] + 0.5) * (1.0 / support)[..., None])
    weights = np.where(inside, np.maximum(1.0 - distance, 0.0), 0.0)
    total = np.add.accumulate(weights, axis=-1)[..., -1:]  # one by one from the left, as Pillow adds
    whole = np.floor(0.5 + weights / total * _UNIT)
    counts = (stop - first).ravel()
    starts = np.cumsum(counts) - counts
    return Taps((position + first_rows[:, None, None])[inside], whole[inside], starts)


def crop_resize_all(image: Tensor, boxes: NDArray[np.int32], side: int) -> Tensor:
    """Cut boxes out of an image and resize each straight to a square, antialiased bilinear.

    Args:
        image: (H, W, 3) uint8, on any device.
        boxes: (n, 4) int32 xywh pixels, inside the image.
        side: side of the results, pixels.

    Returns:
        (n, side, side, 3) uint8 on the image's device, equal to ``crop_resize`` of each box on the host.

    Raises:
        ValueError: a box is empty or leaves the image.
    """
    height, width = image.shape[:2]
    wide = boxes.astype(np.int64)
    ends = wide[:, :2] + wide[:, 2:]
    bad = (wide[:, :2] < 0).any(axis=1) | (wide[:, 2:] < 1).any(axis=1) | (ends > (width, height)).any(axis=1)
    if bad.any():
        box, size = tuple(wide[bad][0].tolist()), f"{width}x{height}"
        raise ValueError(f"box {box} (xywh, pixels) does not lie inside an image of {size} pixels")
    crops = image.new_empty((len(boxes), side, side, 3))
    upright = _height_first(wide, side)
    for mirrored, which in ((False, ~upright), (True, upright)):
        if not which.any():
            continue
        # What comes first matters, as each pass rounds. Mirrored along the diagonal, height is width.
        scene = image.transpose(0, 1) if mirrored else image
        within = wide[which][:, [1, 0, 3, 2]] if mirrored else wide[which]
        resized = _width_first(scene, within, side)
        crops[to_device(np.flatnonzero(which), image.device)] = resized.transpose(1, 2) if mirrored else resized
    return crops


def _height_first(boxes: NDArray[np.int64], side: int) -> NDArray[np.bool_]:
    """Say which boxes Pillow resizes along their height first: those that lose twice as much of it (from 13.0 on)."""
    lost_width, lost_height = boxes[:, 2] - side, boxes[:, 3] - side
    return (lost_height > 0) & (lost_height > 2 * lost_width)


def _width_first(image: Tensor, boxes: NDArray[np.int64], side: int) -> Tensor:
    """Resize boxes of an image along their width, then along their height."""
    height, width = image.shape[:2]
    columns = image.transpose(0, 1).reshape(width, height * 3).double()
    step = max(1, _MOST_VALUES // (side * height * 3))
    cuts = [*range(0, len(boxes), step), len(boxes)]
    crops = [_resized(columns, height, boxes[start:stop], side) for start, stop in pairwise(cuts)]
    return torch.cat([image.new_empty((0, side, side, 3)), *crops])


def _resized(columns: Tensor, height: int, boxes: NDArray[np.int64], side: int) -> Tensor:
    """Resize boxes of an image that is given by its columns, (W, H * 3) float64."""
    count = len(boxes)
    narrow = _weighted(columns, resize_taps(boxes[:, 2], boxes[:, 0], side)).view(count, side, height, 3)
    rows = narrow.transpose(1, 2).reshape(count * height, side * 3).double()
    first_rows = np.arange(count) * height + boxes[:, 1]
    return _weighted(rows, resize_taps(boxes[:, 3], first_rows, side)).view(count, side, side, 3)


def _weighted(table: Tensor, taps: Taps) -> Tensor:
    """Sum rows of a table of whole numbers up to 255 by taps, in float64; round to uint8 as Pillow does."""
    sources, weights, starts = (to_device(part, table.device) for part in taps)
    sums = embedding_bag(sources, table, starts, mode="sum", per_sample_weights=weights)
    return sums.add_(_UNIT // 2).mul_(1 / _UNIT).floor_().clamp_(max=255).to(torch.uint8)
