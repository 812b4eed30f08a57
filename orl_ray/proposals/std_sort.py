"""The unstable sort of C++'s standard library (libstdc++), so that equal keys end up where OpenCV has them.

``std::sort`` is introsort (Musser, "Introspective sorting and selection algorithms", 1997): quicksort with a median of
three, heap sort below a depth of 2 log2(n), and one insertion sort at the end. The order of equal keys follows from
its steps, which are therefore kept here one by one, under the names of ``bits/stl_algo.h`` and ``bits/stl_heap.h``.

An element is a uint64: the key in the high 32 bits, a payload that is not compared in the low ones. The bits of a
float32 that is not negative order like its value.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel

_THRESHOLD = 16


@kernel
def std_sort(items: NDArray[Any], count: int) -> None:
    """Sort ``items[:count]`` by the high 32 bits, in place, with libstdc++'s order of equal keys.

    Args:
        items: (n,) uint64, key << 32 | payload.
        count: how many of them, at most n.
    """
    if count < 2:
        return
    depth = 0
    size = count
    while size > 1:
        size >>= 1
        depth += 2
    stack = np.empty((128, 3), np.int64)
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, count, depth
    waiting = 1
    while waiting:
        waiting -= 1
        first, last, depth = stack[waiting, 0], stack[waiting, 1], stack[waiting, 2]
        while last - first > _THRESHOLD:
            if depth == 0:
                _heap_sort(items, first, last)
                break
            depth -= 1
            cut = _unguarded_partition_pivot(items, first, last)
            stack[waiting, 0], stack[waiting, 1], stack[waiting, 2] = cut, last, depth
            waiting += 1
            last = cut
    _final_insertion_sort(items, count)


@kernel
def _less(one: np.uint64, other: np.uint64) -> Any:
    return (one >> np.uint64(32)) < (other >> np.uint64(32))


@kernel
def _unguarded_partition_pivot(items: NDArray[Any], first: int, last: int) -> Any:
    middle = first + (last - first) // 2
    _move_median_to_first(items, first, first + 1, middle, last - 1)
    pivot = items[first] >> np.uint64(32)
    low, high = first + 1, last
    while True:
        while (items[low] >> np.uint64(32)) < pivot:
            low += 1
        high -= 1
        while pivot < (items[high] >> np.uint64(32)):
            high -= 1
        if low >= high:
            return low
        items[low], items[high] = items[high], items[low]
        low += 1


@kernel
def _move_median_to_first(items: NDArray[np.uint64], result: int, a: int, b: int, c: int) -> None:
    if _less(items[a], items[b]):
        if _less(items[b], items[c]):
            chosen = b
        elif _less(items[a], items[c]):
            chosen = c
        else:
            chosen = a
    elif _less(items[a], items[c]):
        chosen = a
    elif _less(items[b], items[c]):
        chosen = c
    else:
        chosen = b
    items[result], items[chosen] = items[chosen], items[result]


@kernel
def _final_insertion_sort(items: NDArray[Any], count: int) -> None:
    for i in range(1, min(count, _THRESHOLD)):
        value = items[i]
        hole = i
        if _less(value, items[0]):
            while hole > 0:
                items[hole] = items[hole - 1]
                hole -= 1
        else:
            while _less(value, items[hole - 1]):
                items[hole] = items[hole - 1]
                hole -= 1
        items[hole] = value
    for i in range(_THRESHOLD, count):
        value = items[i]
        hole = i
        while _less(value, items[hole - 1]):
            items[hole] = items[hole - 1]
            hole -= 1
        items[hole] = value


@kernel
def _heap_sort(items: NDArray[Any], first: int, last: int) -> None:
    length = last - first
    for parent in range((length - 2) // 2, -1, -1):
        _adjust_heap(items, first, parent, length, items[first + parent])
    while length > 1:
        length -= 1
        value = items[first + length]
        items[first + length] = items[first]
        _adjust_heap(items, first, 0, length, value)


@kernel
def _adjust_heap(items: NDArray[Any], first: int, hole: int, length: int, value: Any) -> None:
    top = hole
    child = hole
    while child < (length - 1) // 2:
        child = 2 * (child + 1)
        if _less(items[first + child], items[first + child - 1]):
            child -= 1
        items[first + hole] = items[first + child]
        hole = child
    if (length & 1) == 0 and child == (length - 2) // 2:
        child = 2 * (child + 1)
        items[first + hole] = items[first + child - 1]
        hole = child - 1
    parent = (hole - 1) // 2
    while hole > top and _less(items[first + parent], value):
        items[first + hole] = items[first + parent]
        hole = parent
        parent = (hole - 1) // 2
    items[first + hole] = value
