"""The grid graph of an image's pixels: edges between horizontal and vertical neighbours, weighted by colour distance.

Felzenszwalb & Huttenlocher, "Efficient graph-based image segmentation", IJCV 2004, section 5, as OpenCV's
``graphsegmentation.cpp`` computes it. OpenCV lists each edge twice, once from either end; once is enough, since the
second copy finds the decision that the first one made.

An edge has a number: pixel u's edge to the right is u, the one downwards is pixels + u.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel

# OpenCV's selective search hands its sigma of 0.8 on as a float.
SIGMA = float(np.float32(0.8))
_DIGIT = 11
_ABSENT = np.float32(np.inf)


def edge_weights(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Blur an image and measure the colour distance along every edge.

    Args:
        image: (H, W, channels) or (H, W) uint8, any colour space.

    Returns:
        (2, H, W) float32: the Euclidean distance to the pixel on the right, and to the pixel below; inf at the last
        column and the last row, where there is none.
    """
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigmaX=SIGMA, sigmaY=SIGMA)
    planes = cv2.split(smooth) if image.ndim == 3 else (smooth,)
    weights = np.empty((2, *image.shape[:2]), np.float32)
    _distances(planes[0], planes[1 % len(planes)], planes[2 % len(planes)], len(planes) == 3, weights)
    return weights


@kernel
def _distance(dx: Any, dy: Any, dz: Any, coloured: bool) -> Any:
    # Single precision throughout, one rounding after each operation.
    total = dx * dx
    if coloured:
        total += dy * dy
        total += dz * dz
    return np.sqrt(total)


@kernel
def _distances(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], coloured: bool, weights: NDArray[Any]) -> None:
    height, width = x.shape
    for i in range(height):
        for j in range(width - 1):
            weights[0, i, j] = _distance(x[i, j] - x[i, j + 1], y[i, j] - y[i, j + 1], z[i, j] - z[i, j + 1], coloured)
        weights[0, i, width - 1] = _ABSENT
        if i == height - 1:
            weights[1, i] = _ABSENT
            continue
        for j in range(width):
            weights[1, i, j] = _distance(x[i, j] - x[i + 1, j], y[i, j] - y[i + 1, j], z[i, j] - z[i + 1, j], coloured)


@kernel
def sort_edges(items: NDArray[Any], count: int, spare: NDArray[Any]) -> NDArray[np.uint64]:
    """Sort edges by weight: a radix sort, stable.

    Args:
        items: (n,) uint64: the weight's float32 bits << 32 | the edge's number.
        count: how many of them to sort.
        spare: (n,) uint64, overwritten.

    Returns:
        ``items`` or ``spare``: whichever holds the sorted edges.
    """
    buckets = 1 << _DIGIT
    counts = np.zeros((3, buckets), np.int64)
    mask = np.uint64(buckets - 1)
    for i in range(count):
        item = items[i]
        counts[0, (item >> np.uint64(32)) & mask] += 1
        counts[1, (item >> np.uint64(32 + _DIGIT)) & mask] += 1
        counts[2, (item >> np.uint64(32 + 2 * _DIGIT)) & mask] += 1
    source, target = items, spare
    for turn in range(3):
        starts = counts[turn]
        before = 0
        for bucket in range(buckets):
            before, starts[bucket] = before + starts[bucket], before
        shift = np.uint64(32 + turn * _DIGIT)
        for i in range(count):
            item = source[i]
            bucket = (item >> shift) & mask
            target[starts[bucket]] = item
            starts[bucket] += 1
        source, target = target, source
    return source
