"""Segments that are too small join a neighbour, along the lightest edge first; then segments are numbered.

The last step of Felzenszwalb & Huttenlocher's segmentation ("Efficient graph-based image segmentation", IJCV 2004,
section 5), as in OpenCV's ``graphsegmentation.cpp``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel
from orl_ray.proposals.std_sort import std_sort


@kernel
def _find(parents: NDArray[Any], node: int) -> Any:
    """Return the root of a node, halving the path to it."""
    parent = parents[node]
    while parent != node:
        above = parents[parent]
        parents[node] = above
        node = above
        parent = parents[node]
    return node


@kernel
def absorb_small(
    component: NDArray[Any], sizes: NDArray[Any], edges: NDArray[Any], min_size: int
) -> tuple[NDArray[np.int32], int, bool]:
    """Join components below ``min_size`` pixels to neighbours, for one k.

    Edges of equal weight come in an order that OpenCV leaves to ``std::sort``. A cluster of components that such
    edges connect ends as one whatever the order, if it never holds two components that are large: at most one is
    large at first, and the small ones do not add up to another.

    Args:
        component: (pieces,) int32, the first piece of each piece's component.
        sizes: (pieces,) int32, pixels of a component, valid at its first piece.
        edges: (n, 3) int32 bits of weight, piece, piece, by rising weight.
        min_size: pixels.

    Returns:
        labels: (pieces,) int32, segments numbered by first appearance.
        count: how many segments.
        certain: whether no order of equal weights could give anything else.
    """
    parents, sizes = component.copy(), sizes.copy()
    edges = _edges_of_small(component, sizes, edges, min_size)
    certain = True
    at = 0
    while at < len(edges):
        end = at + 1
        while end < len(edges) and edges[end, 0] == edges[at, 0]:
            end += 1
        if end > at + 1 and edges[at, 0] > 0:
            certain = certain and _order_is_irrelevant(parents, sizes, edges[at:end], min_size)
        for edge in range(at, end if edges[at, 0] > 0 else at):
            a, b = _find(parents, edges[edge, 1]), _find(parents, edges[edge, 2])
            if a != b and (sizes[a] < min_size or sizes[b] < min_size):
                # The lower piece stays the root, so that roots are first pieces.
                parents[max(a, b)] = min(a, b)
                sizes[min(a, b)] = sizes[a] + sizes[b]
        at = end
    labels, count = _number(parents)
    return labels, count, certain


@kernel
def _edges_of_small(component: NDArray[Any], sizes: NDArray[Any], edges: NDArray[Any], min_size: int) -> Any:
    """Keep the edges that have a small component on one side: sizes only grow."""
    kept = np.empty_like(edges)
    count = 0
    for edge in range(len(edges)):
        a, b = component[edges[edge, 1]], component[edges[edge, 2]]
        kept[count, 0], kept[count, 1], kept[count, 2] = edges[edge, 0], a, b
        count += (a != b) & ((sizes[a] < min_size) | (sizes[b] < min_size))
    return kept[:count]


@kernel
def _order_is_irrelevant(parents: NDArray[Any], sizes: NDArray[Any], edges: NDArray[Any], min_size: int) -> Any:
    """Say whether edges of one weight give the same components in whichever order they come."""
    ends = np.empty((len(edges), 2), np.int32)
    count = 0
    for edge in range(len(edges)):
        a, b = _find(parents, edges[edge, 1]), _find(parents, edges[edge, 2])
        if a != b and (sizes[a] < min_size or sizes[b] < min_size):
            ends[count, 0], ends[count, 1] = a, b
            count += 1
    if count < 2:
        return True
    nodes = np.unique(ends[:count].copy().reshape(-1))
    cluster = np.arange(len(nodes))
    for edge in range(count):
        one = _find(cluster, np.searchsorted(nodes, ends[edge, 0]))
        other = _find(cluster, np.searchsorted(nodes, ends[edge, 1]))
        cluster[one] = other
    large, small = np.zeros(len(nodes), np.int64), np.zeros(len(nodes), np.int64)
    for node in range(len(nodes)):
        top, size = _find(cluster, node), sizes[nodes[node]]
        if size < min_size:
            small[top] += size
        else:
            large[top] += 1
    for node in range(len(nodes)):
        if large[node] > 1 or small[node] >= (min_size if large[node] else 2 * min_size):
            return False
    return True


@kernel
def _number(parents: NDArray[Any]) -> Any:
    """Number roots by first appearance."""
    labels = np.empty(len(parents), np.int32)
    numbers = np.full(len(parents), np.int32(-1), np.int32)
    count = 0
    for piece in range(len(parents)):
        root = _find(parents, piece)
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[piece] = numbers[root]
    return labels, count


def segment_in_order(
    weights: NDArray[np.float32], scales: NDArray[np.float32], min_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Segment with OpenCV's own order of equal weights: every edge from either end, sorted by ``std::sort``.

    Slow, and needed only where :func:`absorb_small` is not certain.

    Args:
        weights: (2, H, W) float32 from :func:`orl_ray.proposals.pixel_graph.edge_weights`.
        scales: (K,) float32, values of k.
        min_size: pixels of the smallest segment.

    Returns:
        (H * W,) int32, each pixel's number: here pixels stand for themselves.
        (K, H * W) int32, segments numbered by first appearance.
        (K,) int64, how many segments.
    """
    pixels = weights[0].size
    labels = np.empty((len(scales), pixels), np.int32)
    counts = np.empty(len(scales), np.int64)
    items = _edges_from_both_ends(weights)
    std_sort(items, len(items))
    for k, scale in enumerate(scales):
        labels[k], counts[k] = _segment_sorted(items, weights.shape[2], pixels, scale, min_size)
    return np.arange(pixels, dtype=np.int32), labels, counts


@kernel
def _edges_from_both_ends(weights: NDArray[Any]) -> Any:
    """List each pixel's edges up, left, down and right, as OpenCV does: weight's bits << 32 | 4 pixel + direction."""
    _, height, width = weights.shape
    bits = weights.view(np.uint32)
    count = 2 * (2 * height * width - height - width)
    items = np.empty(count, np.uint64)
    at = 0
    for i in range(height):
        for j in range(width):
            for direction in range(4):
                di, dj = (direction - 1) * (1 - direction % 2), (direction - 2) * (direction % 2)
                y, x = i + di, j + dj
                if 0 <= y < height and 0 <= x < width:
                    weight = bits[1 if di else 0, min(i, y), min(j, x)]
                    items[at] = (np.uint64(weight) << np.uint64(32)) | np.uint64(4 * (i * width + j) + direction)
                    at += 1
    return items


@kernel
def _segment_sorted(items: NDArray[Any], width: int, pixels: int, scale: Any, min_size: int) -> Any:
    parents = np.arange(pixels).astype(np.int32)
    sizes = np.ones(pixels, np.int32)
    thresholds = np.full(pixels, scale, np.float32)
    values = items.view(np.float32)
    for small in (False, True):
        for at in range(len(items)):
            end: Any = np.int64(items[at] & np.uint64(0xFFFFFFFF))
            pixel, direction = end // 4, end % 4
            step = (direction - 1) * width if direction % 2 == 0 else direction - 2
            a, b, weight = _find(parents, pixel), _find(parents, pixel + step), values[2 * at + 1]
            if a == b:
                continue
            if small:
                wanted = weight > 0 and (sizes[a] < min_size or sizes[b] < min_size)
            else:
                wanted = weight <= thresholds[a] and weight <= thresholds[b]
            if wanted:
                if sizes[a] < sizes[b]:
                    a, b = b, a
                parents[b] = a
                sizes[a] += sizes[b]
                thresholds[a] = weight + scale / np.float32(sizes[a])
    return _number(parents)
