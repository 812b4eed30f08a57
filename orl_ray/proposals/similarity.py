"""How alike two regions are: colour, texture, size and fill.

Uijlings et al., "Selective search for object recognition", IJCV 2013, section 3.2. Every sum is taken in float32, term
after term and without fused operations, as in OpenCV's ``selectivesearchsegmentation.cpp``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel

# A strategy is a sum of these measures.
COLOUR, FILL, TEXTURE, SIZE = 1, 2, 4, 8
_ALL_FOUR = COLOUR | FILL | TEXTURE | SIZE
_ONE = np.float32(1)


@kernel
def intersections(
    histograms: NDArray[Any], region: int, others: NDArray[np.int32], count: int, result: NDArray[Any]
) -> None:
    """Intersect one region's histogram with those of others: the sum of the smaller of each two bins.

    Args:
        histograms: (n, bins) float32.
        region: row of the region.
        others: (m,) int32 rows of the others.
        count: how many of them.
        result: (m,) float32, written.
    """
    own = histograms[region]
    at = 0
    # Four sums side by side: each is a chain of additions whose order is fixed.
    while at + 4 <= count:
        a, b = histograms[others[at]], histograms[others[at + 1]]
        c, d = histograms[others[at + 2]], histograms[others[at + 3]]
        sum_a, sum_b, sum_c, sum_d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(len(own)):
            value = own[i]
            sum_a += min(value, a[i])
            sum_b += min(value, b[i])
            sum_c += min(value, c[i])
            sum_d += min(value, d[i])
        result[at], result[at + 1], result[at + 2], result[at + 3] = sum_a, sum_b, sum_c, sum_d
        at += 4
    while at < count:
        a = histograms[others[at]]
        sum_a = np.float32(0)
        for i in range(len(own)):
            sum_a += min(own[i], a[i])
        result[at] = sum_a
        at += 1


@kernel
def similarity(
    strategy: int,
    colour: Any,
    texture: Any,
    one_box: NDArray[Any],
    other_box: NDArray[Any],
    one_size: int,
    other_size: int,
    pixels: int,
) -> Any:
    """Combine the measures of a strategy.

    Args:
        strategy: a sum of COLOUR, FILL, TEXTURE and SIZE: all four, all but COLOUR, or FILL or SIZE alone.
        colour: float32 intersection of colour histograms.
        texture: float32 intersection of texture histograms.
        one_box: (4,) int32 x, y of the first and of the last pixel of one region.
        other_box: the same of the other.
        one_size: int32 pixels of one region.
        other_size: int32 pixels of the other.
        pixels: pixels of the image.

    Returns:
        float32 similarity, 0 to about 1.
    """
    total = np.float32(pixels)
    size = one_size + other_size
    small = max(min(_ONE - np.float32(size) / total, _ONE), np.float32(0))
    if strategy == SIZE:
        return small
    width = max(one_box[2], other_box[2]) - min(one_box[0], other_box[0]) + 1
    height = max(one_box[3], other_box[3]) - min(one_box[1], other_box[1]) + 1
    fill = max(min(_ONE - np.float32(width * height - size) / total, _ONE), np.float32(0))
    if strategy == FILL:
        return fill
    if strategy == _ALL_FOUR:
        weight = np.float32(0.25)
        return ((weight * colour + weight * fill) + weight * texture) + weight * small
    weight = np.float32(0.3333)
    return ((weight * fill + weight * texture) + weight * small) / ((weight + weight) + weight)
