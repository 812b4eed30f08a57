"""Efficient graph-based image segmentation at several scales at once.

Felzenszwalb & Huttenlocher, "Efficient graph-based image segmentation", IJCV 2004: edges are taken by rising weight,
and two components are joined if the edge is no heavier than either one's threshold, which is the heaviest edge within
it plus k / size. What it gives is what OpenCV's ``graphsegmentation.cpp`` gives, for each k.

Three facts make it fast:

* All k are run together. While components are the same for all, the smallest k accepts on behalf of all and the
  largest rejects on behalf of all. A component on which the k have once disagreed keeps a forest for each k; parts of
  it that are together for all k are still one *piece*.
* The lighter edges are sorted and taken first; before the others are sorted, those within a piece are dropped (Osipov,
  Sanders & Singler, "The filter-Kruskal minimum spanning tree algorithm", 2009).
* A rejected edge matters again only where small components are joined to their neighbours, and only if one side is
  small already, as sizes only grow.

Equal weights: their order does not matter while thresholds decide, since a component that was just joined at weight w
has a threshold of at least w. It may matter among small components; see :mod:`orl_ray.proposals.small_segments`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel
from orl_ray.proposals.pixel_graph import sort_edges

# Share of the edges, by rising weight, that is sorted first.
_FIRST_SHARE = 0.7
_HISTOGRAM_SHIFT = 18
# The bits of an infinite float32.
_ABSENT_BITS = 0x7F800000
# A node of the forest of pieces: columns of an (H * W, 4) uint32 array, beyond the parent valid at a root. The
# threshold and the heaviest edge are float32 bits. After the k have disagreed, the size is a lower bound over all k,
# and the slot says where the piece's trees for each k start. Unsigned, since of a signed index numba asks whether it
# counts from the end.
_PARENT, _SIZE, _THRESHOLD, _HEAVIEST, _SLOT = 0, 1, 2, 3, 3
# Thresholds of pieces on which the k have disagreed, and, from _FINAL down, of pieces that no k will join to anything
# any more: pieces on which they agreed, and pieces on which they did not.
_DISAGREED, _FINAL, _FINAL_APART = np.float32(-1), np.float32(-2), np.float32(-3)
_NUMBER = np.uint64(0xFFFFFFFF)


@kernel
def _find(nodes: NDArray[Any], node: int) -> Any:
    """Return the root of a node, shortening the path to it; a path of one step, as most are, is left alone."""
    parent = nodes[node, _PARENT]
    above = nodes[parent, _PARENT]
    while parent != above:
        nodes[node, _PARENT] = above
        node, parent = parent, above
        above = nodes[parent, _PARENT]
    return parent


@kernel
def merge_components(
    weights: NDArray[Any], scales: NDArray[Any], min_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Run Kruskal's pass with Felzenszwalb & Huttenlocher's criterion for every k.

    Args:
        weights: (2, H, W) float32 from :func:`orl_ray.proposals.pixel_graph.edge_weights`.
        scales: (K,) float32, k rising.
        min_size: components below this many pixels are small.

    Returns:
        pieces: (H * W,) int32, the piece that each pixel lies in, numbered by first appearance in raster order.
        component: (K, pieces) int32, for each k the first piece of the component that a piece belongs to.
        sizes: (K, pieces) int32, pixels of the component, valid at its first piece.
        edges: (n, 3) int32 bits of weight, piece, piece: by rising weight, every rejected edge that a small component
            may still want, and some others.
    """
    _, height, width = weights.shape
    pixels = height * width
    nodes = np.empty((pixels, 4), np.uint32)
    values = nodes.view(np.float32)
    for node in range(pixels):
        nodes[node, _PARENT], nodes[node, _SIZE] = node, 1
        values[node, _THRESHOLD], values[node, _HEAVIEST] = scales[0], 0
    own = np.empty((pixels + 1, len(scales), 3), np.uint32)
    own[pixels, 0, 0] = 0
    flat = weights.reshape(-1)
    limit, lightest = _weight_at_share(flat)
    spare = np.empty(2 * pixels, np.uint64)
    rejected = np.empty(2 * pixels, np.uint64)
    items = _lightest_edges(flat, limit, lightest)
    ordered = sort_edges(items, len(items), spare)
    count = _take_edges(ordered, len(items), width, nodes, own, scales, min_size, rejected, 0)
    items = _edges_between_pieces(flat, limit, width, nodes, min_size)
    ordered = sort_edges(items, len(items), spare)
    count = _take_edges(ordered, len(items), width, nodes, own, scales, min_size, rejected, count)
    piece_of, roots = _number_pieces(nodes)
    component, component_sizes = _components_of_pieces(roots, nodes, own)
    return piece_of, component, component_sizes, _edges_of_pieces(rejected, count, piece_of, width)


@kernel
def _weight_at_share(weights: NDArray[Any]) -> Any:
    """Return a weight that about the first share of the edges lie below, and how many do."""
    bits = weights.view(np.uint32)
    histogram = np.zeros(1 << (32 - _HISTOGRAM_SHIFT), np.int64)
    for i in range(len(bits)):
        histogram[bits[i] >> np.uint32(_HISTOGRAM_SHIFT)] += 1
    total, bucket = 0, 0
    while total < _FIRST_SHARE * len(bits) and bucket < (_ABSENT_BITS >> _HISTOGRAM_SHIFT):
        total += histogram[bucket]
        bucket += 1
    limit = np.empty(1, np.uint32)
    limit[0] = bucket << _HISTOGRAM_SHIFT
    return limit.view(np.float32)[0], total


@kernel
def _lightest_edges(weights: NDArray[Any], limit: Any, count: int) -> Any:
    """List the ``count`` edges below a weight."""
    bits = weights.view(np.uint32)
    items = np.empty(count + 1, np.uint64)
    at = 0
    for edge in range(len(bits)):
        items[at] = (np.uint64(bits[edge]) << np.uint64(32)) | np.uint64(edge)
        at += weights[edge] < limit
    return items[:count]


@kernel
def _edges_between_pieces(weights: NDArray[Any], low: Any, width: int, nodes: NDArray[Any], min_size: int) -> Any:
    """List the edges from a weight on that run between pieces and still matter."""
    pixels = len(nodes)
    bits = weights.view(np.uint32)
    root_of = np.empty(pixels, np.int32)
    for node in range(pixels):
        root_of[node] = _find(nodes, node)
        nodes[node, _PARENT] = root_of[node]
    between = np.empty(2 * pixels + 1, np.uint32)
    at = 0
    for direction in range(2):
        step = width if direction else 1
        for node in range(pixels - step):
            edge: Any = direction * pixels + node
            between[at] = edge
            at += (root_of[node] != root_of[node + step]) & (low <= weights[edge]) & (weights[edge] < np.inf)
    values = nodes.view(np.float32)
    result = np.empty(at, np.uint64)
    kept = 0
    for i in range(at):
        edge = np.int64(between[i])
        node, step = (edge, 1) if edge < pixels else (edge - pixels, width)
        a, b = root_of[node], root_of[node + step]
        result[kept] = (np.uint64(bits[edge]) << np.uint64(32)) | np.uint64(edge)
        small = nodes[a, _SIZE] < min_size or nodes[b, _SIZE] < min_size
        kept += small or (values[a, _THRESHOLD] > _FINAL and values[b, _THRESHOLD] > _FINAL)
    return result[:kept]


@kernel
def _take_edges(
    items: NDArray[Any],
    size: int,
    width: int,
    nodes: NDArray[Any],
    own: NDArray[Any],
    scales: NDArray[Any],
    min_size: int,
    rejected: NDArray[Any],
    count: int,
) -> Any:
    """Decide on sorted edges; append those that a small component may want later; return how many there are."""
    pixels, below, one = np.uint64(len(nodes)), np.uint64(width), np.uint64(1)
    values = nodes.view(np.float32)
    weights = items.view(np.float32)
    smallest, largest = scales[0], scales[len(scales) - 1]
    for at in range(size):
        edge = items[at] & _NUMBER
        weight = weights[2 * at + 1]
        node, step = (edge, one) if edge < pixels else (edge - pixels, below)
        a, b = _find(nodes, node), _find(nodes, node + step)
        if a == b:
            continue
        if weight <= values[a, _THRESHOLD] and weight <= values[b, _THRESHOLD]:
            size_a, size_b = nodes[a, _SIZE], nodes[b, _SIZE]
            into = a if size_a >= size_b else b
            nodes[a ^ b ^ into, _PARENT] = into
            a = into
            nodes[a, _SIZE] = size_a + size_b
            values[a, _HEAVIEST] = weight
            values[a, _THRESHOLD] = weight + smallest / np.float32(nodes[a, _SIZE])
            continue
        for piece in (a, b):
            if values[piece, _THRESHOLD] >= 0:
                limit = values[piece, _HEAVIEST] + largest / np.float32(nodes[piece, _SIZE])
                if weight > limit:
                    values[piece, _THRESHOLD] = _FINAL
        if values[a, _THRESHOLD] <= _FINAL or values[b, _THRESHOLD] <= _FINAL:
            wanted = nodes[a, _SIZE] < min_size or nodes[b, _SIZE] < min_size
        else:
            wanted = _take_for_each_scale(a, b, weight, nodes, own, scales, min_size)
        rejected[count] = items[at]
        count += wanted
    return count


@kernel
def _take_for_each_scale(
    a: int, b: int, weight: Any, nodes: NDArray[Any], own: NDArray[Any], scales: NDArray[Any], min_size: int
) -> Any:
    """Decide on an edge between two pieces for each k; say whether a small component may want it later."""
    values, own_values = nodes.view(np.float32), own.view(np.float32)
    for piece in (a, b):
        if values[piece, _THRESHOLD] >= 0:
            _open_own_trees(piece, nodes, own, scales)
    together, wanted = True, False
    a_final, b_final = True, True
    a_least, b_least = np.uint32(0x7FFFFFFF), np.uint32(0x7FFFFFFF)
    for k in range(len(scales)):
        one, other = _find_own(own, nodes[a, _SLOT], k), _find_own(own, nodes[b, _SLOT], k)
        if one != other:
            if weight <= own_values[one, k, 2] and weight <= own_values[other, k, 2]:
                if own[one, k, 1] < own[other, k, 1]:
                    one, other = other, one
                own[other, k, 0] = one
                own[one, k, 1] += own[other, k, 1]
                own_values[one, k, 2] = weight + scales[k] / np.float32(own[one, k, 1])
                other = one
            else:
                together = False
                wanted = wanted or own[one, k, 1] < min_size or own[other, k, 1] < min_size
        a_final, b_final = a_final and weight > own_values[one, k, 2], b_final and weight > own_values[other, k, 2]
        a_least, b_least = min(a_least, own[one, k, 1]), min(b_least, own[other, k, 1])
    nodes[a, _SIZE], nodes[b, _SIZE] = a_least, b_least
    if together:
        nodes[b, _PARENT] = a
    if a_final:
        values[a, _THRESHOLD] = _FINAL_APART
    if b_final:
        values[b, _THRESHOLD] = _FINAL_APART
    return wanted


@kernel
def _open_own_trees(piece: int, nodes: NDArray[Any], own: NDArray[Any], scales: NDArray[Any]) -> None:
    """Give a piece on which the k disagree for the first time a tree for each k: (parent, size, threshold's bits)."""
    values, own_values = nodes.view(np.float32), own.view(np.float32)
    slots = len(own) - 1
    slot = own[slots, 0, 0]
    own[slots, 0, 0] += 1
    for k in range(len(scales)):
        own[slot, k, 0] = slot
        own[slot, k, 1] = nodes[piece, _SIZE]
        own_values[slot, k, 2] = values[piece, _HEAVIEST] + scales[k] / np.float32(nodes[piece, _SIZE])
    values[piece, _THRESHOLD] = _DISAGREED
    nodes[piece, _SLOT] = slot


@kernel
def _find_own(own: NDArray[Any], slot: int, k: int) -> Any:
    parent = own[slot, k, 0]
    while parent != slot:
        above = own[parent, k, 0]
        own[slot, k, 0] = above
        slot = above
        parent = own[slot, k, 0]
    return slot


@kernel
def _number_pieces(nodes: NDArray[Any]) -> Any:
    """Number the pieces by first appearance; return each pixel's piece and each piece's root."""
    pixels = len(nodes)
    piece_of = np.full(pixels, np.int32(-1), np.int32)
    numbers = np.full(pixels, np.int32(-1), np.int32)
    roots = np.empty(pixels, np.int32)
    count = 0
    before = -1
    for node in range(pixels):
        root = _find(nodes, node)
        if root != before:
            before = root
            if numbers[root] < 0:
                numbers[root] = count
                roots[count] = root
                count += 1
        piece_of[node] = numbers[root]
    return piece_of, roots[:count].copy()


@kernel
def _components_of_pieces(roots: NDArray[Any], nodes: NDArray[Any], own: NDArray[Any]) -> Any:
    """Say for each k which component every piece belongs to, by that component's first piece."""
    slots, scales = own[len(own) - 1, 0, 0], own.shape[1]
    component = np.empty((scales, len(roots)), np.int32)
    sizes = np.empty((scales, len(roots)), np.int32)
    first = np.full((slots, scales), np.int32(-1), np.int32)
    values = nodes.view(np.float32)
    for piece in range(len(roots)):
        root = roots[piece]
        for k in range(scales):
            component[k, piece] = piece
            sizes[k, piece] = nodes[root, _SIZE]
            if values[root, _THRESHOLD] in (_DISAGREED, _FINAL_APART):
                top = _find_own(own, nodes[root, _SLOT], k)
                if first[top, k] < 0:
                    first[top, k] = piece
                component[k, piece] = first[top, k]
                sizes[k, piece] = own[top, k, 1]
    return component, sizes


@kernel
def _edges_of_pieces(rejected: NDArray[Any], count: int, piece_of: NDArray[Any], width: int) -> Any:
    """Turn edges of pixels into edges of pieces: (n, 3) int32 bits of weight, piece, piece."""
    edges = np.empty((count, 3), np.int32)
    pixels = len(piece_of)
    for at in range(count):
        edge: Any = np.int64(rejected[at] & _NUMBER)
        node, step = (edge, 1) if edge < pixels else (edge - pixels, width)
        edges[at, 0] = np.int32(rejected[at] >> np.uint64(32))
        edges[at, 1], edges[at, 2] = piece_of[node], piece_of[node + step]
    return edges
