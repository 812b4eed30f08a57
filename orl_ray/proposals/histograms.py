"""Colour and texture histograms of an image's cells, and of the segments that cells make up.

Uijlings et al., "Selective search for object recognition", IJCV 2013, section 3.2: 25 bins a colour channel, 10 bins
for each orientation and channel, L1-normalised. Bins are those of OpenCV's ``selectivesearchsegmentation.cpp``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.intrinsics import fused_multiply_add
from orl_ray.proposals.kernel import kernel

COLOUR_BINS, TEXTURE_BINS = 25, 10
# A gradient's code: 0 where both of its parts lie in their usual bins, 1 + bin of the positive part otherwise, or
# 11 + bin of the negative part. At most one part is not zero, so one code says both bins.
_CODES = 21
# Adding and subtracting 1.5 * 2^23 rounds a float32 in [0, 255] to an integer, half to even, as convertTo does.
_ROUND = np.float32(12582912.0)
_BIN = np.float32(TEXTURE_BINS / 256)


@kernel
def count_colours(image: NDArray[Any], cell_map: NDArray[Any], cells: int) -> NDArray[np.int32]:
    """Count the colours of each cell.

    Args:
        image: (H, W, channels) uint8.
        cell_map: (H, W) int32.
        cells: how many cells.

    Returns:
        (cells, channels * 25) int32 pixels a bin.
    """
    height, width, channels = image.shape
    bin_of = np.empty(256, np.int64)
    for value in range(256):
        bin_of[value] = value * COLOUR_BINS // 256
    counts = np.zeros((cells, channels * COLOUR_BINS), np.int32)
    for i in range(height):
        for j in range(width):
            own = counts[cell_map[i, j]]
            for channel in range(channels):
                own[channel * COLOUR_BINS + bin_of[image[i, j, channel]]] += 1
    return counts


def count_textures(
    gradients: NDArray[np.float32], cell_map: NDArray[np.int32], sizes: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Count the gradients of each cell, the positive and the negative part of each orientation apart.

    Each part is stretched to 0..255 over the image, rounded, and cut into 10 bins.

    Args:
        gradients: (orientations, H, W) float32.
        cell_map: (H, W) int32.
        sizes: (cells,) int32 pixels.

    Returns:
        (cells, orientations * 2 * 10) int32 pixels a bin.
    """
    flat = gradients.reshape(len(gradients), -1)
    low, high = flat.min(axis=1).astype(np.float64), flat.max(axis=1).astype(np.float64)
    least = np.stack([np.maximum(low, 0), np.minimum(low, 0)], axis=1)
    span = np.stack([np.maximum(high, 0), np.minimum(high, 0)], axis=1) - least
    # A part of one value has no stretch, and lies in bin 0.
    span[span == 0] = np.nan
    scales, offsets = (255.0 / span).astype(np.float32), (-255.0 * least / span).astype(np.float32)
    usual = np.where(np.isnan(offsets), 0, np.clip(np.rint(offsets), 0, 255)).astype(np.int64) * TEXTURE_BINS // 256
    counts = np.zeros((len(sizes), len(gradients), _CODES), np.int32)
    _count_codes(gradients, cell_map, scales, offsets, usual, counts)
    result: NDArray[np.int32] = _unfold(counts, usual, sizes)
    return result


@kernel
def _count_codes(
    gradients: NDArray[Any],
    cell_map: NDArray[Any],
    scales: NDArray[Any],
    offsets: NDArray[Any],
    usual: NDArray[Any],
    counts: NDArray[Any],
) -> None:
    planes, height, width = gradients.shape
    codes = np.zeros((width + 7) // 8 * 8, np.uint8)
    words = codes.view(np.uint64)
    for plane in range(planes):
        for i in range(height):
            _encode(gradients[plane, i], scales[plane], offsets[plane], usual[plane], codes)
            row = cell_map[i]
            for word in range(len(words)):
                if words[word]:
                    for j in range(8 * word, min(8 * word + 8, width)):
                        counts[row[j], plane, codes[j]] += 1


@kernel
def _encode(
    values: NDArray[Any], scale: NDArray[np.float32], offset: NDArray[Any], usual: NDArray[Any], codes: NDArray[Any]
) -> None:
    """Write a row's codes. All is float32 or a byte, so that the compiler makes vectors of it.

    OpenCV's ``convertTo`` scales with a fused multiply-add, too.
    """
    scale_up, scale_down, offset_up, offset_down = scale[0], scale[1], offset[0], offset[1]
    first_up, first_down = np.float32(1), np.float32(1 + TEXTURE_BINS)
    usual_up, usual_down = np.uint8(1 + usual[0]), np.uint8(1 + TEXTURE_BINS + usual[1])
    for j in range(len(values)):
        value = values[j]
        up = value > 0
        level = fused_multiply_add(value, scale_up if up else scale_down, offset_up if up else offset_down)
        level = (level + _ROUND) - _ROUND
        level = level if level >= 0 else np.float32(0)
        # 10 / 256 is exact; for 0..255 this is the same as dividing by 25.6 in single precision.
        code = np.uint8(level * _BIN + (first_up if up else first_down))
        codes[j] = np.uint8(0) if code == (usual_up if up else usual_down) else code


@kernel
def _unfold(counts: NDArray[Any], usual: NDArray[Any], sizes: NDArray[Any]) -> Any:
    """Turn counts of codes into counts of bins; the usual bins get the pixels that were not counted."""
    cells, planes, _ = counts.shape
    result = np.zeros((cells, planes, 2, TEXTURE_BINS), np.int32)
    for cell in range(cells):
        for plane in range(planes):
            for part in range(2):
                rest = sizes[cell]
                for own in range(TEXTURE_BINS):
                    if own != usual[plane, part]:
                        amount = counts[cell, plane, 1 + part * TEXTURE_BINS + own]
                        result[cell, plane, part, own] = amount
                        rest -= amount
                result[cell, plane, part, usual[plane, part]] = rest
    return result.reshape(cells, planes * 2 * TEXTURE_BINS)


def add_cells(counts: NDArray[np.int32], segment: NDArray[np.int32], segments: int) -> NDArray[np.int32]:
    """Add the histograms of cells up to those of segments.

    Args:
        counts: (cells, bins) int32.
        segment: (cells,) int32 the segment of each cell.
        segments: how many segments.

    Returns:
        (segments, bins) int32.
    """
    result = np.zeros((segments, counts.shape[1]), np.int32)
    _add_rows(counts, segment, result)
    return result


@kernel
def _add_rows(counts: NDArray[Any], segment: NDArray[Any], result: NDArray[Any]) -> None:
    for cell in range(len(counts)):
        result[segment[cell]] += counts[cell]


def normalised_colours(counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """Divide each row of colour counts by its sum, which is taken in float32, one bin after the other, as OpenCV does.

    Args:
        counts: (segments, bins) int32.

    Returns:
        (segments, bins) float32.
    """
    single = counts.astype(np.float32)
    return single / np.cumsum(single, axis=1, dtype=np.float32)[:, -1:]


def normalised_textures(counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """Divide each row of texture counts by its sum, an integer that is rounded to float32.

    Args:
        counts: (segments, bins) int32.

    Returns:
        (segments, bins) float32.
    """
    result: NDArray[np.float32] = counts.astype(np.float32) / counts.sum(axis=1, keepdims=True).astype(np.float32)
    return result
