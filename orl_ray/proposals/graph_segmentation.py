"""Efficient graph-based image segmentation at several scales at once.

Felzenszwalb & Huttenlocher, "Efficient graph-based image segmentation", IJCV 2004: edges are taken by rising weight,
and two components are joined if the edge is no heavier than either one's threshold, which is the heaviest edge within
it plus k / size. What it gives is what OpenCV's ``graphsegmentation.cpp`` gives, for each k.

Three facts make it fast:

* All k are run together. While components are the same for all, the smallest k accepts on behalf of all and the
  largest rejects on behalf of all. A component on which the k have once disagreed keeps a forest for each k; parts of
  it that are together for all k are still one *piece*.
* Edges are sorted in slices by weight (Osipov, Sanders & Singler, "The filter-Kruskal minimum spanning tree
  algorithm", 2009): before a slice is sorted, edges within a piece are dropped.
* A rejected edge matters again only where small components are joined to their neighbours, and only if one side is
  small already, as sizes only grow.

Equal weights: their order does not matter while thresholds decide, since a component that was just joined at weight w
has a threshold of at least w. It may matter among small components; see :mod:`orl_ray.proposals.small_segments`.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from orl_ray.proposals.pixel_graph import sort_edges

# Shares of the edges, by rising weight, at which a slice ends.
_SLICES = (0.4, 0.65, 0.85)
_HISTOGRAM_SHIFT = 18
_DISAGREED = np.float32(-1)


@njit(nogil=True, cache=True)
def find(parents, node):  # type: ignore[no-untyped-def]
    """Return the root of a node, halving the path to it."""
    parent = parents[node]
    while parent != node:
        above = parents[parent]
        parents[node] = above
        node = above
        parent = parents[node]
    return node


@njit(nogil=True, cache=True)
def merge_components(weights, scales, min_size):  # type: ignore[no-untyped-def]
    """Run Kruskal's pass with Felzenszwalb & Huttenlocher's criterion for every k.

    Args:
        weights: (2, H, W) float32 from :func:`orl_ray.proposals.pixel_graph.edge_weights`.
        scales: (K,) float32, k rising.
        min_size: components below this many pixels are small.

    Returns:
        pieces: (H * W,) int32, the piece that each pixel lies in, numbered by first appearance in raster order.
        component: (K, pieces) int32, for each k the first piece of the component that a piece belongs to.
        sizes: (K, pieces) int32, pixels of the component, valid at its first piece.
        edges: (n, 3) int32 bits of weight, piece, piece: rejected edges with a small side, by rising weight.
    """
    _, height, width = weights.shape
    pixels = height * width
    parents = np.empty(pixels, np.int32)
    sizes = np.empty(pixels, np.int32)
    thresholds = np.empty(pixels, np.float32)
    heaviest = np.empty(pixels, np.float32)
    for node in range(pixels):
        parents[node] = node
        sizes[node] = 1
        thresholds[node] = scales[0]
        heaviest[node] = 0
    pieces = (parents, sizes, thresholds, heaviest)
    own_parents = np.empty((pixels, len(scales)), np.int32)
    own_sizes = np.empty((pixels, len(scales)), np.int32)
    own_thresholds = np.empty((pixels, len(scales)), np.float32)
    own = (own_parents, own_sizes, own_thresholds)
    flat = weights.reshape(-1)
    ends = _slice_ends(flat)
    rejected = np.empty(1024, np.uint64)
    count = 0
    low = np.float32(-1)
    for turn in range(len(ends)):
        high = ends[turn]
        items, size = _edges_between(flat, low, high, parents, width, turn > 0)
        items = sort_edges(items, size, np.empty(size, np.uint64))
        rejected, count = _take_edges(items, size, width, pieces, own, scales, min_size, rejected, count)
        low = high
    piece_of, roots = _number_pieces(parents)
    component, component_sizes = _components_of_pieces(roots, piece_of, pieces, own)
    return piece_of, component, component_sizes, _edges_of_pieces(rejected, count, piece_of, width)


@njit(nogil=True, cache=True)
def _slice_ends(weights):  # type: ignore[no-untyped-def]
    """Choose the weights at which slices end; the last is above every weight."""
    bits = weights.view(np.uint32)
    counts = np.zeros(1 << (32 - _HISTOGRAM_SHIFT), np.int64)
    for i in range(len(bits)):
        counts[bits[i] >> np.uint32(_HISTOGRAM_SHIFT)] += 1
    ends = np.full(len(_SLICES) + 1, np.float32(3e38), np.float32)
    end_bits = ends.view(np.uint32)
    total, turn = 0, 0
    for bucket in range(len(counts)):
        total += counts[bucket]
        while turn < len(_SLICES) and total >= _SLICES[turn] * len(bits):
            end_bits[turn] = min(np.uint32((bucket + 1) << _HISTOGRAM_SHIFT), end_bits[len(_SLICES)])
            turn += 1
    return ends


@njit(nogil=True, cache=True)
def _edges_between(weights, low, high, parents, width, filtered):  # type: ignore[no-untyped-def]
    """List the edges with low <= weight < high; if ``filtered``, only those between different pieces."""
    pixels = len(parents)
    if filtered:
        for node in range(pixels):
            parents[node] = find(parents, node)
    bits = weights.view(np.uint32)
    size = 0
    for edge in range(2 * pixels):
        size += low <= weights[edge] and weights[edge] < high
    items = np.empty(size + 1, np.uint64)
    at = 0
    for direction in range(2):
        step = width if direction else 1
        for node in range(pixels - step):
            edge = direction * pixels + node
            items[at] = (np.uint64(bits[edge]) << np.uint64(32)) | np.uint64(edge)
            inside = low <= weights[edge] and weights[edge] < high
            if filtered:
                inside = inside and parents[node] != parents[node + step]
            at += inside
    return items, at


@njit(nogil=True, cache=True)
def _take_edges(items, size, width, pieces, own, scales, min_size, rejected, count):  # type: ignore[no-untyped-def]
    """Decide on sorted edges; append those that a small component may want later to ``rejected``."""
    parents, sizes, thresholds, heaviest = pieces
    pixels = len(parents)
    values = items.view(np.float32)
    smallest, largest = scales[0], scales[len(scales) - 1]
    for at in range(size):
        edge = np.int64(items[at] & np.uint64(0xFFFFFFFF))
        weight = values[2 * at + 1]
        node, step = (edge, 1) if edge < pixels else (edge - pixels, width)
        a, b = find(parents, node), find(parents, node + step)
        if a == b:
            continue
        if weight <= thresholds[a] and weight <= thresholds[b]:
            if sizes[a] < sizes[b]:
                a, b = b, a
            parents[b] = a
            sizes[a] += sizes[b]
            heaviest[a] = weight
            thresholds[a] = weight + smallest / np.float32(sizes[a])
            continue
        if thresholds[a] >= 0 and thresholds[b] >= 0:
            limit = min(
                heaviest[a] + largest / np.float32(sizes[a]), heaviest[b] + largest / np.float32(sizes[b])
            )
            wanted = weight > limit and (sizes[a] < min_size or sizes[b] < min_size)
            agreed = weight > limit
        else:
            agreed, wanted = False, False
        if not agreed:
            wanted = _take_for_each_scale(a, b, weight, pieces, own, scales, min_size)
        if wanted:
            if count == len(rejected):
                longer = np.empty(2 * count, np.uint64)
                longer[:count] = rejected
                rejected = longer
            rejected[count] = items[at]
            count += 1
    return rejected, count


@njit(nogil=True, cache=True)
def _take_for_each_scale(a, b, weight, pieces, own, scales, min_size):  # type: ignore[no-untyped-def]
    """Decide on an edge between two pieces for each k; say whether a small component may want it later."""
    own_parents, own_sizes, own_thresholds = own
    for piece in (a, b):
        _open_own_trees(piece, pieces, own, scales)
    together, wanted = True, False
    for k in range(len(scales)):
        one, other = _find_own(own_parents, a, k), _find_own(own_parents, b, k)
        if one == other:
            continue
        if weight <= own_thresholds[one, k] and weight <= own_thresholds[other, k]:
            if own_sizes[one, k] < own_sizes[other, k]:
                one, other = other, one
            own_parents[other, k] = one
            own_sizes[one, k] += own_sizes[other, k]
            own_thresholds[one, k] = weight + scales[k] / np.float32(own_sizes[one, k])
        else:
            together = False
            wanted = wanted or own_sizes[one, k] < min_size or own_sizes[other, k] < min_size
    if together:
        parents, sizes = pieces[0], pieces[1]
        if sizes[a] < sizes[b]:
            a, b = b, a
        parents[b] = a
        sizes[a] += sizes[b]
    return wanted


@njit(nogil=True, cache=True)
def _open_own_trees(piece, pieces, own, scales):  # type: ignore[no-untyped-def]
    """Give a piece on which the k disagree for the first time a tree for each k."""
    _, sizes, thresholds, heaviest = pieces
    own_parents, own_sizes, own_thresholds = own
    if thresholds[piece] >= 0:
        thresholds[piece] = _DISAGREED
        for k in range(len(scales)):
            own_parents[piece, k] = piece
            own_sizes[piece, k] = sizes[piece]
            own_thresholds[piece, k] = heaviest[piece] + scales[k] / np.float32(sizes[piece])


@njit(nogil=True, cache=True)
def _find_own(parents, node, k):  # type: ignore[no-untyped-def]
    parent = parents[node, k]
    while parent != node:
        above = parents[parent, k]
        parents[node, k] = above
        node = above
        parent = parents[node, k]
    return node


@njit(nogil=True, cache=True)
def _number_pieces(parents):  # type: ignore[no-untyped-def]
    """Number the pieces by first appearance; return each pixel's piece and each piece's root."""
    pixels = len(parents)
    piece_of = np.full(pixels, np.int32(-1), np.int32)
    numbers = np.full(pixels, np.int32(-1), np.int32)
    roots = np.empty(pixels, np.int32)
    count = 0
    before = -1
    for node in range(pixels):
        root = find(parents, node)
        if root != before:
            before = root
            if numbers[root] < 0:
                numbers[root] = count
                roots[count] = root
                count += 1
        piece_of[node] = numbers[root]
    return piece_of, roots[:count].copy()


@njit(nogil=True, cache=True)
def _components_of_pieces(roots, piece_of, pieces, own):  # type: ignore[no-untyped-def]
    """Say for each k which component every piece belongs to, by that component's first piece."""
    _, sizes, thresholds, _ = pieces
    own_parents, own_sizes, _ = own
    scales = own_parents.shape[1]
    component = np.empty((scales, len(roots)), np.int32)
    component_sizes = np.empty((scales, len(roots)), np.int32)
    first = np.full((len(piece_of), scales), np.int32(-1), np.int32)
    for piece in range(len(roots)):
        root = roots[piece]
        for k in range(scales):
            component[k, piece] = piece
            component_sizes[k, piece] = sizes[root]
            if thresholds[root] < 0:
                top = _find_own(own_parents, root, k)
                if first[top, k] < 0:
                    first[top, k] = piece
                component[k, piece] = first[top, k]
                component_sizes[k, piece] = own_sizes[top, k]
    return component, component_sizes


@njit(nogil=True, cache=True)
def _edges_of_pieces(rejected, count, piece_of, width):  # type: ignore[no-untyped-def]
    """Turn edges of pixels into edges of pieces: (n, 3) int32 bits of weight, piece, piece."""
    edges = np.empty((count, 3), np.int32)
    pixels = len(piece_of)
    for at in range(count):
        edge = np.int64(rejected[at] & np.uint64(0xFFFFFFFF))
        node, step = (edge, 1) if edge < pixels else (edge - pixels, width)
        edges[at, 0] = np.int32(rejected[at] >> np.uint64(32))
        edges[at, 1], edges[at, 2] = piece_of[node], piece_of[node + step]
    return edges
