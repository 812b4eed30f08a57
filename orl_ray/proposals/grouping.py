"""Hierarchical grouping: the two most similar neighbouring regions become one, until nothing has a neighbour.

Uijlings et al., "Selective search for object recognition", IJCV 2013, algorithm 1, with the result of OpenCV's
``hierarchicalGrouping``. Where OpenCV sorts all similarities before each merge, here a heap holds them; a similarity
whose region has been merged away is skipped when it comes to the top.

Equal similarities at the top are the only thing that a heap may take in another order than ``std::sort``. Two pairs
that have no region in common, are no neighbours, and make no new similarity as high as their own, give the same
regions in either order. Else the hierarchy is grown again from the start with ``std::sort`` itself.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel
from orl_ray.proposals.similarity import COLOUR, TEXTURE, intersections, similarity
from orl_ray.proposals.std_sort import std_sort

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
# Above this product of segments and pairs, sorting before each merge would take many seconds, in OpenCV as well: equal
# similarities are then taken in the heap's order.
_MOST_SORTED = 100_000_000


@kernel
def pair_intersections(histograms: NDArray[Any], pairs: NDArray[Any]) -> NDArray[np.float32]:
    """Intersect the histograms of neighbouring segments.

    Args:
        histograms: (n, bins) float32.
        pairs: (m, 2) int32, sorted by the first column.

    Returns:
        (m,) float32.
    """
    result = np.empty(len(pairs), np.float32)
    start = 0
    while start < len(pairs):
        end = start
        while end < len(pairs) and pairs[end, 0] == pairs[start, 0]:
            end += 1
        intersections(histograms, pairs[start, 0], pairs[start:end, 1], end - start, result[start:end])
        start = end
    return result


@kernel
def group(
    strategy: int,
    sizes: NDArray[Any],
    boxes: NDArray[Any],
    pairs: NDArray[Any],
    colours: NDArray[Any],
    textures: NDArray[Any],
    colour_pairs: NDArray[Any],
    texture_pairs: NDArray[Any],
    pixels: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Grow one hierarchy.

    Args:
        strategy: what counts as similar; see :func:`orl_ray.proposals.similarity.similarity`.
        sizes: (n,) int32 pixels of the initial segments.
        boxes: (n, 4) int32 x, y of the first and of the last pixel.
        pairs: (m, 2) int32 neighbouring segments, lower number first, in rising order.
        colours: (n, bins) float32 colour histograms.
        textures: (n, bins) float32 texture histograms.
        colour_pairs: (m,) float32 intersections of ``colours`` over ``pairs``.
        texture_pairs: (m,) float32 intersections of ``textures`` over ``pairs``.
        pixels: pixels of the image.

    Returns:
        boxes: (r, 4) int32 x, y of the first and of the last pixel: the segments, then each merge's region.
        levels: (r,) int32: 1 for segments, one more than the higher of both parts for a merged region.
    """
    segments = len(sizes)
    start = np.empty(len(pairs), np.uint64)
    bits = np.empty(1, np.float32)
    as_bits = bits.view(np.uint32)
    for pair in range(len(pairs)):
        one, other = pairs[pair, 0], pairs[pair, 1]
        bits[0] = similarity(
            strategy,
            colour_pairs[pair],
            texture_pairs[pair],
            boxes[one],
            boxes[other],
            sizes[one],
            sizes[other],
            pixels,
        )
        start[pair] = (np.uint64(as_bits[0]) << _SHIFT) | np.uint64(pair)
    careful = segments * len(pairs) <= _MOST_SORTED
    for by_heap in (True, False):
        all_boxes = np.empty((2 * segments, 4), np.int32)
        all_boxes[:segments] = boxes
        all_sizes = np.empty(2 * segments, np.int32)
        all_sizes[:segments] = sizes
        levels = np.ones(2 * segments, np.int32)
        tables = (all_boxes, all_sizes, levels, colours.copy(), textures.copy())
        if by_heap:
            regions, certain = _group_by_heap(strategy, start, pairs, segments, tables, pixels, careful)
        else:
            regions, certain = _group_by_sorting(strategy, start, pairs, segments, tables, pixels), True
        if certain:
            break
    return all_boxes[:regions].copy(), levels[:regions].copy()


@kernel
def _merge(strategy: int, one: int, other: int, new: int, slots: NDArray[Any], tables: Any) -> None:
    """Make region ``new`` of two regions; its histograms live in the slot of the lowest segment that it contains."""
    boxes, sizes, levels, colours, textures = tables
    for side in range(2):
        boxes[new, side] = min(boxes[one, side], boxes[other, side])
        boxes[new, 2 + side] = max(boxes[one, 2 + side], boxes[other, 2 + side])
    sizes[new] = sizes[one] + sizes[other]
    levels[new] = max(levels[one], levels[other]) + 1
    a, b = slots[one], slots[other]
    slots[new] = min(a, b)
    if strategy & COLOUR:
        _average(colours, a, b, slots[new], sizes[one], sizes[other])
    if strategy & TEXTURE:
        _average(textures, a, b, slots[new], sizes[one], sizes[other])


@kernel
def _average(
    histograms: NDArray[Any], one: int, other: int, into: NDArray[Any], one_size: int, other_size: int
) -> None:
    a, b, result = histograms[one], histograms[other], histograms[into]
    one_weight, other_weight = np.float32(one_size), np.float32(other_size)
    total = np.float32(one_size + other_size)
    for i in range(len(result)):
        result[i] = (a[i] * one_weight + b[i] * other_weight) / total


@kernel
def _measure(
    strategy: int,
    new: int,
    neighbours: NDArray[Any],
    count: int,
    slots: NDArray[Any],
    tables: Any,
    pixels: int,
    scratch: NDArray[Any],
) -> None:
    """Write the similarities of a new region to ``count`` neighbours into the first row of ``scratch``."""
    boxes, sizes, _, colours, textures = tables
    rows = np.empty(count, np.int32)
    for i in range(count):
        rows[i] = slots[neighbours[i]]
    if strategy & COLOUR:
        intersections(colours, slots[new], rows, count, scratch[1])
    if strategy & TEXTURE:
        intersections(textures, slots[new], rows, count, scratch[2])
    for i in range(count):
        other = neighbours[i]
        scratch[0, i] = similarity(
            strategy, scratch[1, i], scratch[2, i], boxes[new], boxes[other], sizes[new], sizes[other], pixels
        )


@kernel
def _group_by_heap(
    strategy: int, start: NDArray[Any], pairs: NDArray[Any], segments: int, tables: Any, pixels: int, careful: bool
) -> Any:
    """Merge by a heap of similarities; return how many regions there are, and whether std::sort gives the same."""
    merged_to = np.full(2 * segments, np.int32(-1), np.int32)
    slots = np.empty(2 * segments, np.int32)
    slots[:segments] = np.arange(segments)
    heads, tails, following, ends = _adjacency(pairs, segments)
    heap = np.empty(2 * len(start) + 16, np.uint64)
    owners = np.empty((len(heap), 2), np.int32)
    heap[: len(start)] = start
    owners[: len(start)] = pairs
    size, made = len(start), len(start)
    for parent in range(size // 2 - 1, -1, -1):
        _sift_down(heap, parent, size)
    neighbours = np.empty(segments, np.int32)
    seen = np.full(2 * segments, np.int32(-1), np.int32)
    scratch = np.empty((3, segments), np.float32)
    scratch_bits = scratch.view(np.uint32)
    regions = segments
    tied = np.uint64(0)
    while True:
        size = _drop_merged(heap, size, owners, merged_to)
        if size == 0:
            return regions, True
        top = heap[0]
        one, other = owners[top & _LOW, 0], owners[top & _LOW, 1]
        size = _drop_merged(heap, _pop(heap, size), owners, merged_to)
        if careful and size and heap[0] >> _SHIFT == top >> _SHIFT:
            second = owners[heap[0] & _LOW]
            if tied or top >> _SHIFT == 0 or not _apart(one, other, second, heads, following, ends, merged_to):
                return regions, False
            limit = top >> _SHIFT
        else:
            limit = np.uint64(0)
        merged_to[one], merged_to[other] = regions, regions
        _merge(strategy, one, other, regions, slots, tables)
        following[tails[one]] = heads[other]
        heads[regions], tails[regions] = heads[one], tails[other]
        count = _collect(regions, heads, tails, following, ends, merged_to, seen, neighbours)
        _measure(strategy, regions, neighbours, count, slots, tables, pixels, scratch)
        if made + count > len(owners):
            owners = _longer_rows(owners, made + count)
        if size + count > len(heap):
            heap = _longer(heap, size + count)
        for i in range(count):
            value = np.uint64(scratch_bits[0, i])
            if (limit and value >= limit) or (tied and value >= tied):
                return regions, False
            owners[made, 0], owners[made, 1] = regions, neighbours[i]
            size = _push(heap, size, (value << _SHIFT) | np.uint64(made))
            made += 1
        tied = limit
        regions += 1


@kernel
def _adjacency(pairs: NDArray[Any], segments: int) -> Any:
    """Return linked lists of neighbours: first and last entry of each region, next entry, and whom it names.

    An entry names a segment; the region that has taken it up is found through ``merged_to``. So lists are joined
    when regions merge, and need no other change.
    """
    heads = np.full(2 * segments, np.int32(-1), np.int32)
    tails = np.full(2 * segments, np.int32(-1), np.int32)
    following = np.full(2 * len(pairs), np.int32(-1), np.int32)
    ends = np.empty(2 * len(pairs), np.int32)
    for entry in range(2 * len(pairs)):
        pair, side = entry // 2, entry % 2
        owner = pairs[pair, side]
        ends[entry] = pairs[pair, 1 - side]
        if heads[owner] < 0:
            heads[owner] = entry
        else:
            following[tails[owner]] = entry
        tails[owner] = entry
    return heads, tails, following, ends


@kernel
def _region_of(merged_to: NDArray[Any], region: int) -> Any:
    above = merged_to[region]
    while above >= 0:
        if merged_to[above] >= 0:
            merged_to[region] = merged_to[above]
        region, above = above, merged_to[above]
    return region


@kernel
def _collect(
    region: int,
    heads: NDArray[Any],
    tails: NDArray[Any],
    following: NDArray[Any],
    ends: NDArray[Any],
    merged_to: NDArray[Any],
    seen: NDArray[Any],
    neighbours: NDArray[Any],
) -> Any:
    """List the distinct neighbours of a region, and strike what is not needed from its linked list."""
    count = 0
    entry, kept = heads[region], np.int32(-1)
    heads[region] = -1
    while entry >= 0:
        after = following[entry]
        other = _region_of(merged_to, ends[entry])
        if other != region and seen[other] != region:
            seen[other] = region
            ends[entry] = other
            neighbours[count] = other
            count += 1
            if kept < 0:
                heads[region] = entry
            else:
                following[kept] = entry
            kept = entry
        entry = after
    if kept >= 0:
        following[kept] = -1
    tails[region] = kept
    return count


@kernel
def _apart(
    one: int,
    other: int,
    second: NDArray[Any],
    heads: NDArray[Any],
    following: NDArray[Any],
    ends: NDArray[Any],
    merged_to: NDArray[Any],
) -> Any:
    """Say whether two pairs of regions have no region in common and are no neighbours."""
    for region in second:
        if region in (one, other):
            return False
        entry = heads[region]
        while entry >= 0:
            neighbour = _region_of(merged_to, ends[entry])
            if neighbour in (one, other):
                return False
            entry = following[entry]
    return True


@kernel
def _drop_merged(heap: NDArray[Any], size: int, owners: NDArray[Any], merged_to: NDArray[Any]) -> Any:
    while size:
        pair = heap[0] & _LOW
        if merged_to[owners[pair, 0]] < 0 and merged_to[owners[pair, 1]] < 0:
            break
        size = _pop(heap, size)
    return size


@kernel
def _pop(heap: NDArray[Any], size: int) -> Any:
    size -= 1
    heap[0] = heap[size]
    _sift_down(heap, 0, size)
    return size


@kernel
def _push(heap: NDArray[Any], size: int, value: Any) -> Any:
    hole = size
    while hole > 0:
        parent = (hole - 1) // 2
        if heap[parent] >= value:
            break
        heap[hole] = heap[parent]
        hole = parent
    heap[hole] = value
    return size + 1


@kernel
def _sift_down(heap: NDArray[Any], hole: int, size: int) -> None:
    value = heap[hole]
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[hole] = heap[child]
        hole = child
    heap[hole] = value


@kernel
def _longer(items: NDArray[Any], length: int) -> Any:
    result = np.empty(2 * length, items.dtype)
    result[: len(items)] = items
    return result


@kernel
def _longer_rows(items: NDArray[Any], length: int) -> Any:
    result = np.empty((2 * length, 2), items.dtype)
    result[: len(items)] = items
    return result


@kernel
def _group_by_sorting(
    strategy: int, start: NDArray[Any], pairs: NDArray[Any], segments: int, tables: Any, pixels: int
) -> Any:
    """Merge as OpenCV does, step by step: all similarities are sorted before each merge."""
    slots = np.empty(2 * segments, np.int32)
    slots[:segments] = np.arange(segments)
    items = np.empty(len(start) + segments + 16, np.uint64)
    owners = np.empty((len(items), 2), np.int32)
    items[: len(start)] = start
    owners[: len(start)] = pairs
    size, made = len(start), len(start)
    neighbours = np.empty(segments, np.int32)
    seen = np.full(2 * segments, np.int32(-1), np.int32)
    scratch = np.empty((3, segments), np.float32)
    scratch_bits = scratch.view(np.uint32)
    regions = segments
    while size:
        std_sort(items, size)
        size -= 1
        one, other = owners[items[size] & _LOW, 0], owners[items[size] & _LOW, 1]
        _merge(strategy, one, other, regions, slots, tables)
        kept, count = 0, 0
        for i in range(size):
            a, b = owners[items[i] & _LOW, 0], owners[items[i] & _LOW, 1]
            if a in (one, other) or b in (one, other):
                neighbour = b if a in (one, other) else a
                if seen[neighbour] != regions:
                    seen[neighbour] = regions
                    neighbours[count] = neighbour
                    count += 1
            else:
                items[kept] = items[i]
                kept += 1
        _measure(strategy, regions, neighbours, count, slots, tables, pixels, scratch)
        if made + count > len(owners):
            owners = _longer_rows(owners, made + count)
        for i in range(count):
            owners[made, 0], owners[made, 1] = regions, neighbours[i]
            items[kept + i] = (np.uint64(scratch_bits[0, i]) << _SHIFT) | np.uint64(made)
            made += 1
        size = kept + count
        regions += 1
    return regions
