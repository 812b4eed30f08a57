"""One map of regions for several segmentations of an image, and what grouping needs to know of them.

A *cell* is a set of pixels that share their segment in every segmentation. Sizes, boxes, histograms and neighbours are
found once for the cells; each segmentation's own then follow by adding cells up.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel


class Segments(NamedTuple):
    """The segments of one segmentation, which are the leaves of the hierarchies that are grown from it.

    Attributes:
        sizes: (n,) int32 pixels.
        boxes: (n, 4) int32 x, y of the first and of the last pixel.
        pairs: (m, 2) int32, neighbouring segments, lower number first, in rising order.
    """

    sizes: NDArray[np.int32]
    boxes: NDArray[np.int32]
    pairs: NDArray[np.int32]


@kernel
def cells_of(labels: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Number the distinct combinations of labels by first appearance.

    Args:
        labels: (K, pieces) int32, each piece's segment in each segmentation.
        counts: (K,) int64 segments.

    Returns:
        cell: (pieces,) int32.
        segments: (K, cells) int32, each cell's segment in each segmentation.
    """
    scales, pieces = labels.shape
    cell = labels[0].copy()
    cells = counts[0]
    for k in range(1, scales):
        cell, cells = _number_pairs(cell, labels[k])
    segments = np.empty((scales, cells), np.int32)
    for piece in range(pieces):
        for k in range(scales):
            segments[k, cell[piece]] = labels[k, piece]
    return cell, segments


@kernel
def _number_pairs(one: NDArray[np.int32], other: NDArray[np.int32]) -> Any:
    """Number the distinct pairs of two columns by first appearance."""
    slots = 16
    while slots < 2 * len(one):
        slots *= 2
    keys = np.full(slots, np.int64(-1), np.int64)
    numbers = np.empty(slots, np.int32)
    result = np.empty(len(one), np.int32)
    count = 0
    for i in range(len(one)):
        key = (np.int64(one[i]) << 32) | np.int64(other[i])
        at = _slot(keys, key)
        if keys[at] < 0:
            keys[at] = key
            numbers[at] = count
            count += 1
        result[i] = numbers[at]
    return result, count


@kernel
def _slot(keys: NDArray[Any], key: Any) -> Any:
    """Find a key, or the free place for it, in an open hash table whose size is a power of two."""
    mask = len(keys) - 1
    at = ((key * 0x9E3779B97F4A7C1) >> 20) & mask
    while keys[at] >= 0 and keys[at] != key:
        at = (at + 1) & mask
    return at


@kernel
def map_cells(
    piece_of: NDArray[Any], cell_of_piece: NDArray[Any], cells: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Draw the map of cells; measure them and find their neighbours.

    As in OpenCV, a pixel is compared with those on the left, above, and above on the left, but not in the first row
    and column: so an image of one row has no neighbours.

    Args:
        piece_of: (H * W,) int32 piece of each pixel.
        cell_of_piece: (pieces,) int32.
        cells: how many cells.
        width: W, pixels.

    Returns:
        cell map (H, W) int32; sizes (cells,) int32; boxes (cells, 4) int32 x, y of first and last pixel; pairs (m,)
        int64: lower cell << 32 | higher cell, distinct, in no order.
    """
    height = len(piece_of) // width
    cell_map = np.empty((height, width), np.int32)
    sizes = np.zeros(cells, np.int32)
    boxes = np.empty((cells, 4), np.int32)
    boxes[:, :2], boxes[:, 2:] = 0x7FFFFFFF, -1
    for i in range(height):
        row = cell_map[i]
        for j in range(width):
            row[j] = cell_of_piece[piece_of[i * width + j]]
        start = 0
        while start < width:
            cell = row[start]
            end = start + 1
            while end < width and row[end] == cell:
                end += 1
            sizes[cell] += end - start
            boxes[cell, 0], boxes[cell, 2] = min(boxes[cell, 0], start), max(boxes[cell, 2], end - 1)
            boxes[cell, 1], boxes[cell, 3] = min(boxes[cell, 1], i), i
            start = end
    return cell_map, sizes, boxes, _neighbours(cell_map)


@kernel
def _neighbours(cell_map: NDArray[Any]) -> Any:
    height, width = cell_map.shape
    keys = np.full(1024, np.int64(-1), np.int64)
    count = 0
    last = np.int64(-1)
    for i in range(1, height):
        above, row = cell_map[i - 1], cell_map[i]
        for j in range(1, width):
            cell = row[j]
            if cell == row[j - 1] and cell == above[j] and cell == above[j - 1]:
                continue
            for other in (row[j - 1], above[j], above[j - 1]):
                key = (np.int64(min(cell, other)) << 32) | np.int64(max(cell, other))
                if other == cell or key == last:
                    continue
                last = key
                at = _slot(keys, key)
                if keys[at] < 0:
                    keys[at] = key
                    count += 1
                    if 2 * count > len(keys):
                        keys = _grown(keys)
    return keys[keys >= 0]


@kernel
def _grown(keys: NDArray[Any]) -> Any:
    larger = np.full(2 * len(keys), np.int64(-1), np.int64)
    for key in keys:
        if key >= 0:
            larger[_slot(larger, key)] = key
    return larger


def segments_from_cells(
    segment: NDArray[np.int32],
    count: int,
    sizes: NDArray[np.int32],
    boxes: NDArray[np.int32],
    pairs: NDArray[np.int64],
) -> Segments:
    """Add cells up to the segments of one segmentation.

    Args:
        segment: (cells,) int32, the segment of each cell.
        count: how many segments.
        sizes: (cells,) int32 pixels.
        boxes: (cells, 4) int32 x, y of the first and of the last pixel.
        pairs: (m,) int64 neighbouring cells, from :func:`map_cells`.

    Returns:
        The segments' sizes, boxes and neighbours.
    """
    total = np.bincount(segment, weights=sizes, minlength=count).astype(np.int32)
    extent = np.empty((count, 4), np.int32)
    extent[:, :2], extent[:, 2:] = np.iinfo(np.int32).max, -1
    np.minimum.at(extent[:, 0], segment, boxes[:, 0])
    np.minimum.at(extent[:, 1], segment, boxes[:, 1])
    np.maximum.at(extent[:, 2], segment, boxes[:, 2])
    np.maximum.at(extent[:, 3], segment, boxes[:, 3])
    one, other = segment[pairs >> 32].astype(np.int64), segment[pairs & 0xFFFFFFFF].astype(np.int64)
    apart = one != other
    one, other = one[apart], other[apart]
    keys = np.unique(np.minimum(one, other) * count + np.maximum(one, other))
    return Segments(total, extent, np.stack([keys // count, keys % count], axis=1).astype(np.int32))
