"""Colour and texture histograms of an image's cells, and of the segments that cells make up.

Uijlings et al., "Selective search for object recognition", IJCV 2013, section 3.2: 25 bins a colour channel, 10 bins
for each orientation and channel, L1-normalised. Bins are those of OpenCV's ``selectivesearchsegmentation.cpp``.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

COLOUR_BINS, TEXTURE_BINS = 25, 10
# A gradient's code: 0 where both of its parts lie in their usual bins, 1 + bin of the positive part otherwise, or
# 11 + bin of the negative part. At most one part is not zero, so one code says both bins.
_CODES = 21
# Adding and subtracting 1.5 * 2^23 rounds a float32 in [0, 255] to an integer, half to even, as convertTo does.
_ROUND = np.float32(12582912.0)


@njit(nogil=True, cache=True)
def count_colours(image, cell_map, cells):  # type: ignore[no-untyped-def]
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


@njit(nogil=True, cache=True)
def count_textures(gradients, cell_map, sizes):  # type: ignore[no-untyped-def]
    """Count the gradients of each cell, the positive and the negative part of each orientation apart.

    Each part is stretched to 0..255 over the image, rounded, and cut into 10 bins.

    Args:
        gradients: (orientations, H, W) float32.
        cell_map: (H, W) int32.
        sizes: (cells,) int32 pixels.

    Returns:
        (cells, orientations * 2 * 10) int32 pixels a bin.
    """
    planes, height, width = gradients.shape
    cells = len(sizes)
    counts = np.zeros((cells, planes, _CODES), np.int32)
    codes = np.empty(width + 8, np.uint8)
    words = codes[: (width + 7) // 8 * 8].view(np.uint64)
    codes[:] = 0
    usual = np.empty((planes, 2), np.int64)
    for plane in range(planes):
        scale = _stretches(gradients[plane])
        usual[plane, 0], usual[plane, 1] = _bin(np.float32(0), scale[0]), _bin(np.float32(0), scale[1])
        for i in range(height):
            _encode(gradients[plane, i], scale, usual[plane], codes)
            row = cell_map[i]
            for word in range(len(words)):
                if words[word]:
                    for j in range(8 * word, min(8 * word + 8, width)):
                        counts[row[j], plane, codes[j]] += 1
    return _unfold(counts, usual, sizes)


@njit(nogil=True, cache=True)
def _stretches(gradient):  # type: ignore[no-untyped-def]
    """Return (scale, offset) of the positive and of the negative part: float32, not finite for a part of one value."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for i in range(gradient.shape[0]):
        for j in range(gradient.shape[1]):
            low, high = min(low, gradient[i, j]), max(high, gradient[i, j])
    result = np.empty((2, 2), np.float32)
    for part in range(2):
        least = np.float64(max(low, np.float32(0)) if part == 0 else min(low, np.float32(0)))
        most = np.float64(max(high, np.float32(0)) if part == 0 else min(high, np.float32(0)))
        span = most - least
        result[part, 0] = 255.0 / span if span > 0 else np.nan
        result[part, 1] = -255.0 * least / span if span > 0 else np.nan
    return result


@njit(nogil=True, cache=True)
def _bin(value, stretch):  # type: ignore[no-untyped-def]
    # OpenCV multiplies and adds without rounding in between (FMA). A part of one value has no stretch: its bin is 0.
    stretched = np.float32(np.float64(value) * np.float64(stretch[0]) + np.float64(stretch[1]))
    level = (stretched + _ROUND) - _ROUND
    if not level >= 0:
        return 0
    # For 0..255 the same as dividing by 25.6 in single precision.
    return (min(np.int64(level), 255) * TEXTURE_BINS) >> 8


@njit(nogil=True, cache=True)
def _encode(values, stretch, usual, codes):  # type: ignore[no-untyped-def]
    for j in range(len(values)):
        part = 0 if values[j] > 0 else 1
        own = _bin(values[j], stretch[part])
        codes[j] = 0 if own == usual[part] else 1 + part * TEXTURE_BINS + own


@njit(nogil=True, cache=True)
def _unfold(counts, usual, sizes):  # type: ignore[no-untyped-def]
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


@njit(nogil=True, cache=True)
def _add_rows(counts, segment, result):  # type: ignore[no-untyped-def]
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
    return counts.astype(np.float32) / counts.sum(axis=1, keepdims=True).astype(np.float32)
