"""Segments that are too small join a neighbour, along the lightest edge first; then segments are numbered.

The last step of Felzenszwalb & Huttenlocher's segmentation ("Efficient graph-based image segmentation", IJCV 2004,
section 5), as in OpenCV's ``graphsegmentation.cpp``.
"""

import numpy as np
from numba import njit

from orl_ray.proposals.graph_segmentation import find


@njit(nogil=True, cache=True)
def absorb_small(component, sizes, edges, min_size):  # type: ignore[no-untyped-def]
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
    certain = True
    at = 0
    while at < len(edges):
        end = at + 1
        while end < len(edges) and edges[end, 0] == edges[at, 0]:
            end += 1
        if end > at + 1 and edges[at, 0] > 0:
            certain = certain and _order_is_irrelevant(parents, sizes, edges[at:end], min_size)
        for edge in range(at, end if edges[at, 0] > 0 else at):
            a, b = find(parents, edges[edge, 1]), find(parents, edges[edge, 2])
            if a != b and (sizes[a] < min_size or sizes[b] < min_size):
                # The lower piece stays the root, so that roots are first pieces.
                parents[max(a, b)] = min(a, b)
                sizes[min(a, b)] = sizes[a] + sizes[b]
        at = end
    labels, count = _number(parents)
    return labels, count, certain


@njit(nogil=True, cache=True)
def _order_is_irrelevant(parents, sizes, edges, min_size):  # type: ignore[no-untyped-def]
    """Say whether edges of one weight give the same components in whichever order they come."""
    ends = np.empty((len(edges), 2), np.int32)
    count = 0
    for edge in range(len(edges)):
        a, b = find(parents, edges[edge, 1]), find(parents, edges[edge, 2])
        if a != b and (sizes[a] < min_size or sizes[b] < min_size):
            ends[count, 0], ends[count, 1] = a, b
            count += 1
    if count < 2:
        return True
    nodes = np.unique(ends[:count].copy().reshape(-1))
    cluster = np.arange(len(nodes))
    for edge in range(count):
        one = find(cluster, np.searchsorted(nodes, ends[edge, 0]))
        other = find(cluster, np.searchsorted(nodes, ends[edge, 1]))
        cluster[one] = other
    large, small = np.zeros(len(nodes), np.int64), np.zeros(len(nodes), np.int64)
    for node in range(len(nodes)):
        top, size = find(cluster, node), sizes[nodes[node]]
        if size < min_size:
            small[top] += size
        else:
            large[top] += 1
    for node in range(len(nodes)):
        if large[node] > 1 or small[node] >= (min_size if large[node] else 2 * min_size):
            return False
    return True


@njit(nogil=True, cache=True)
def _number(parents):  # type: ignore[no-untyped-def]
    """Number roots by first appearance."""
    labels = np.empty(len(parents), np.int32)
    numbers = np.full(len(parents), np.int32(-1), np.int32)
    count = 0
    for piece in range(len(parents)):
        root = find(parents, piece)
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[piece] = numbers[root]
    return labels, count
