"""Pairs of RoIs between an image and its neighbours: large entries of their similarity matrix.

The published rule is ``top`` (Jiahao000/ORL @ 2ad64f7, ``models/correspondence.py``): as many pairs a neighbour as a
share of the *query image's* RoIs, at least one, and no mutual check, so that a RoI of either image may stand in several
pairs. ``mutual`` takes only pairs whose RoIs are each other's most similar one in the other image; ``one_to_one`` goes
through all pairs by falling similarity and takes those of which neither RoI was taken before. Equal similarities are
ordered by the query's position, then the neighbour's, in all three, and a smaller count gives a prefix of a larger one.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.exact_similarity import similarities
from orl_ray.mining.half_floats import as_single

# Neighbour rows that are multiplied at once, whole neighbours: 32 MiB as float32 at 2,048 numbers a vector.
_ROWS_AT_ONCE = 4096
# Candidates that are multiplied one by one at once: 32 MiB of float64 at 2,048 numbers a vector.
_SCORED_AT_ONCE = 1024
# From this share of a matrix on, all of it in float64 is cheaper than its candidates one by one.
_DENSE_SHARE = 1 / 16


class Pairs(NamedTuple):
    """RoI pairs between one image and one neighbour, by falling similarity.

    Attributes:
        query_index: (n,) int32 positions in the query image's RoIs.
        neighbor_index: (n,) int32 positions in the neighbour's RoIs.
        similarities: (n,) float64 cosines, exact.
    """

    query_index: NDArray[np.int32]
    neighbor_index: NDArray[np.int32]
    similarities: NDArray[np.float64]


def pair_count(rois: int, ratio: float) -> int:
    """Count the pairs a neighbour: max(1, floor(ratio * rois)).

    The ratio is taken as the decimal that it prints as, and multiplied exactly: in floating point 0.29 * 100 falls
    below 29. At the published ratio, 0.1, this equals the reference's ``int(0.1 * rois)``.

    Args:
        rois: the query image's RoIs, at least 1.
        ratio: pairs as a share of them, at least 0; it may exceed 1.

    Returns:
        The count, at least 1.

    Raises:
        ValueError: no RoIs, or a ratio that is negative or not finite.
    """
    if rois < 1:
        raise ValueError(f"an image has at least one RoI, not {rois}")
    if not (math.isfinite(ratio) and ratio >= 0):
        raise ValueError(f"the pair ratio must be a finite number of at least 0, not {ratio}")
    return max(1, math.floor(Fraction(str(float(ratio))) * int(rois)))


def match(query: NDArray[np.float16], neighbor: NDArray[np.float16], count: int, pairing: str = "top") -> Pairs:
    """Pair the RoIs of an image with those of one neighbour.

    Args:
        query: (B, D) unit vectors of the image's RoIs.
        neighbor: (M, D) unit vectors of the neighbour's RoIs.
        count: pairs wanted, at least 1.
        pairing: ``top``, ``mutual`` or ``one_to_one``.

    Returns:
        The ``count`` most similar pairs that the pairing allows, or all of them; ties by query position, then
        neighbour position.

    Raises:
        ValueError: as :func:`match_block`.
    """
    return match_block(query, neighbor, np.array([0, len(neighbor)], dtype=np.int64), count, pairing)[0]


def match_block(
    query: NDArray[np.float16],
    neighbors: NDArray[np.float16],
    offsets: NDArray[np.int64],
    count: int,
    pairing: str = "top",
) -> list[Pairs]:
    """Pair the RoIs of an image with those of several neighbours, by one matrix product.

    Args:
        query: (B, D) vectors of the image's RoIs, unit float16. That they are is for the caller to check, once:
            :func:`~orl_ray.mining.exact_similarity.widen`.
        neighbors: (M, D) vectors of all neighbours' RoIs, likewise, one neighbour after another.
        offsets: (K + 1,) int64; neighbour j owns rows offsets[j] to offsets[j + 1].
        count: pairs wanted a neighbour, at least 1.
        pairing: ``top``, ``mutual`` or ``one_to_one``.

    Returns:
        For each of the K neighbours what :func:`match` returns for it alone.

    Raises:
        ValueError: vectors that are not float16 rows of one length, a count below 1, an unknown pairing, or offsets
            that do not cut the rows up.
    """
    if count < 1:
        raise ValueError(f"at least one pair a neighbour must be asked for, not {count}")
    if pairing not in _PAIRINGS:
        raise ValueError(f"unknown pairing {pairing!r}; there are {', '.join(_PAIRINGS)}")
    offsets = np.asarray(offsets, dtype=np.int64)
    if not offsets.size or offsets[0] != 0 or offsets[-1] != len(neighbors) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets must rise from 0 to the {len(neighbors)} neighbour rows, not {offsets.tolist()}")
    if query.ndim != 2 or neighbors.ndim != 2 or query.shape[1] != neighbors.shape[1]:
        raise ValueError(f"RoI vectors differ in length: {query.shape} and {neighbors.shape}")
    single, found = as_single(query), list[Pairs]()
    for first, last in _groups(offsets):
        rows = as_single(neighbors[offsets[first] : offsets[last]])
        found += _PAIRINGS[pairing](single, rows, offsets[first : last + 1] - offsets[first], count)
    return found


def _groups(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut neighbours into runs [first, last) of bounded rows; a run holds at least one."""
    first, count = 0, len(offsets) - 1
    while first < count:
        fitting = int(np.searchsorted(offsets, offsets[first] + _ROWS_AT_ONCE, side="right")) - 1
        last = max(first + 1, fitting)
        yield first, last
        first = last


def _top(
    query: NDArray[np.float32], neighbors: NDArray[np.float32], offsets: NDArray[np.int64], count: int
) -> list[Pairs]:
    """Take each neighbour's largest entries: float32 finds candidates, float64 decides.

    Proof that no entry is missed. On unit vectors a float32 product errs by less than e = D * 2^-23, in any order of
    summation (half of that, to first order: Higham, "Accuracy and stability of numerical algorithms", 2002, section
    3.1; no product of float16 numbers underflows). Let t be a matrix's n-th largest float32 entry. Then n entries are
    exactly at least t - e, so the n-th largest exact entry is, too. Whatever is as large as that one, and so may be
    among the n however ties are broken, is at least t - 2e in float32. All of these are candidates.
    """
    rough = query @ neighbors.T
    slack = 2 * query.shape[1] * 2.0**-23
    chosen = []
    for start, stop in pairwise(offsets):
        flat = rough[:, start:stop].ravel()
        if count < flat.size:
            threshold = float(np.partition(flat, flat.size - count)[flat.size - count]) - slack
            # Rounded down, as the comparison is in float32.
            chosen.append(np.flatnonzero(flat >= np.nextafter(np.float32(threshold), np.float32(-np.inf))))
        else:
            chosen.append(np.arange(flat.size))
    sizes = [len(positions) for positions in chosen]
    blocks = np.repeat(np.arange(len(chosen)), sizes)
    widths = np.maximum(1, np.diff(offsets))[blocks]
    rows, columns = np.divmod(np.concatenate([np.empty(0, np.int64), *chosen]), widths)
    exact = _scores(query, neighbors, rows, columns + offsets[blocks])
    order = np.lexsort((-exact, blocks))  # stable: ties stay in the order of positions
    starts = np.cumsum([0, *sizes])
    wanted = [order[start:stop][:count] for start, stop in pairwise(starts)]
    return [Pairs(rows[at].astype(np.int32), columns[at].astype(np.int32), exact[at]) for at in wanted]


def _scores(
    query: NDArray[np.float32], neighbors: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return some entries of the similarity matrix, exact."""
    if rows.size > _DENSE_SHARE * len(query) * len(neighbors):
        chosen: NDArray[np.float64] = similarities(query, neighbors)[rows, columns]
        return chosen
    exact = np.empty(rows.size)
    for start in range(0, rows.size, _SCORED_AT_ONCE):
        part = slice(start, start + _SCORED_AT_ONCE)
        left, right = query[rows[part]].astype(np.float64), neighbors[columns[part]].astype(np.float64)
        np.einsum("nd,nd->n", left, right, out=exact[part])
    return exact + 0.0


def _of_each(
    rule: Callable[[NDArray[np.float64], int], Pairs],
) -> Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], int], list[Pairs]]:
    """Make a pairing of a rule on one neighbour's whole, exact (B, M) matrix."""

    def pair(
        query: NDArray[np.float32], neighbors: NDArray[np.float32], offsets: NDArray[np.int64], count: int
    ) -> list[Pairs]:
        matrix = similarities(query, neighbors)
        return [rule(matrix[:, start:stop].copy(), count) for start, stop in pairwise(offsets)]

    return pair


def _mutual(matrix: NDArray[np.float64], count: int) -> Pairs:
    """Take the pairs whose RoIs are each other's most similar one; of equally similar ones, the first."""
    if not matrix.size:
        return _pairs([], [], [])
    partner = matrix.argmax(axis=1)
    rows = np.flatnonzero(matrix.argmax(axis=0)[partner] == np.arange(len(matrix)))
    found = matrix[rows, partner[rows]]
    order = np.argsort(-found, kind="stable")[:count]
    return _pairs(rows[order], partner[rows][order], found[order])


def _one_to_one(matrix: NDArray[np.float64], count: int) -> Pairs:
    """Take pairs by falling similarity, each RoI once; empties the matrix."""
    rows, columns, found = [], [], []
    for _ in range(min(count, *matrix.shape)):
        row, column = divmod(int(matrix.argmax()), matrix.shape[1])
        rows.append(row)
        columns.append(column)
        found.append(matrix[row, column])
        matrix[row], matrix[:, column] = -np.inf, -np.inf
    return _pairs(rows, columns, found)


def _pairs(rows: object, columns: object, found: object) -> Pairs:
    return Pairs(np.asarray(rows, np.int32), np.asarray(columns, np.int32), np.asarray(found, np.float64))


_PAIRINGS = {"top": _top, "mutual": _of_each(_mutual), "one_to_one": _of_each(_one_to_one)}
