"""Nearest RoIs of RoIs over a whole collection, which several shards hold: candidates by IVF-PQ, re-ranked exactly.

The candidates of a query are the best-scored RoIs of the lists that it probes, of all shards together; so they, and
what is chosen among them, do not depend on how RoIs are sharded.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.exact_similarity import similarities, widen
from orl_ray.mining.global_codebook import Codebook, Probes, encode, nearest_lists, score_tables
from orl_ray.proposals.kernel import kernel

_NO_SCORE = np.iinfo(np.int32).min
# Queries whose tables a thread holds at once: 4 MB at 64 bytes a code.
_QUERY_BLOCK = 64
# Numbers of an exact scan's similarities that are held at once: 32 MB.
_SCAN_NUMBERS = 2**22


class Found(NamedTuple):
    """RoIs that were found for q queries, c each; where there are fewer, the rest has image id -1.

    Attributes:
        image_ids: (q, c) int64.
        positions: (q, c) int64, of the RoIs in their images.
        boxes: (q, c, 4) int32.
        scores: (q, c) int32, what candidates were chosen by.
        similarities: (q, c) float64 cosines, exact; minus infinity where there is no RoI.
    """

    image_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    boxes: NDArray[np.int32]
    scores: NDArray[np.int32]
    similarities: NDArray[np.float64]

    def rows(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Found":
        """Return the same of some queries."""
        return Found._make(field[rows] for field in self)

    def put(self, places: Any, values: "Found") -> None:
        """Overwrite some entries: ``places`` is what an array is indexed by."""
        for field, new in zip(tuple[NDArray[Any], ...](self), values, strict=True):
            field[places] = new


class RoiIndex:
    """One shard's RoIs, to be searched for those that are near to RoIs of any shard.

    Args:
        vectors: (n, D) unit float16 vectors.
        image_ids: (n,) int64, not falling; the RoIs of an image stand together and in their order.
        boxes: (n, 4) int32.
        groups: (n,) int64: no RoI is found for a query of its own group.
        codebook: the codebook; None allows exact scans only.

    Raises:
        ValueError: vectors that are not unit float16, or image ids that fall.
    """

    def __init__(
        self,
        vectors: NDArray[np.float16],
        image_ids: NDArray[np.int64],
        boxes: NDArray[np.int32],
        groups: NDArray[np.int64],
        codebook: Codebook | None,
    ) -> None:
        if (np.diff(image_ids) < 0).any():
            raise ValueError("the RoIs of an index must be in the order of their images' ids")
        for rows in _blocks(len(vectors)):
            widen(vectors[rows], "indexed RoIs")
        self._vectors, self._image_ids, self._boxes, self._groups = vectors, image_ids, boxes, groups
        self._positions = positions_of(image_ids)
        self._codebook = codebook
        if codebook is not None:
            lists = nearest_lists(codebook, vectors, 1).lists[:, 0]
            self._rows = np.argsort(lists, kind="stable")
            self._starts = np.searchsorted(lists[self._rows], np.arange(len(codebook.centers) + 1))
            self._codes = encode(codebook, vectors, lists)[self._rows]

    def candidates(
        self, queries: NDArray[np.float16], groups: NDArray[np.int64], probes: Probes, count: int, threads: int = 1
    ) -> Found:
        """Find the best-scored RoIs of the probed lists, ties by image id and position.

        Args:
            queries: (q, D) unit float16 vectors.
            groups: (q,) int64 groups of the queries' images.
            probes: the lists to look into, a row a query.
            count: candidates wanted a query.
            threads: threads, each with queries of its own; results do not depend on them.

        Raises:
            ValueError: the index has no codebook.
        """
        if self._codebook is None:
            raise ValueError("an index without a codebook has no candidates, only exact scans")
        codebook = self._codebook

        def search(start: int) -> Found:
            rows = slice(start, start + _QUERY_BLOCK)
            tables = score_tables(codebook, queries[rows])
            found = _nothing(len(tables), count)
            each = zip(queries[rows], groups[rows], tables, probes.lists[rows], probes.scores[rows], strict=True)
            for at, (query, group, table, lists, bases) in enumerate(each):
                chosen, scores = self._best(group, table, lists, bases, count)
                exact = similarities(query[None], self._vectors[chosen])[0]
                self._fill(found, at, chosen, scores, exact)
            return found

        with ThreadPoolExecutor(threads) as pool:
            return join_rows([*pool.map(search, range(0, len(queries), _QUERY_BLOCK))], count)

    def scan(self, queries: NDArray[np.float16], groups: NDArray[np.int64], count: int) -> Found:
        """Find the most similar RoIs of the whole shard exactly, ties by image id and position; arguments as above."""
        wide = widen(queries, "query RoIs")
        found = _nothing(len(wide), count)
        step = max(1, _SCAN_NUMBERS // max(1, len(self._vectors)))
        for start in range(0, len(wide), step):
            block = wide[start : start + step]
            exact = np.concatenate([similarities(block, self._vectors[r]) for r in _blocks(len(self._vectors))], axis=1)
            for at, (row, group) in enumerate(zip(exact, groups[start : start + step], strict=True), start):
                allowed = np.flatnonzero(self._groups != group)
                chosen = allowed[_largest(row[allowed], count)]
                self._fill(found, at, chosen, np.zeros(len(chosen), np.int32), row[chosen])
        return found

    def _best(
        self,
        group: np.int64,
        table: NDArray[np.int32],
        lists: NDArray[np.int64],
        bases: NDArray[np.int32],
        count: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the rows and scores of a query's candidates."""
        starts, stops = self._starts[lists], self._starts[lists + 1]
        scores = np.empty(int((stops - starts).sum()), np.int32)
        _add_scores(self._codes, starts, stops, bases, table, scores)
        rows = np.concatenate([self._rows[start:stop] for start, stop in zip(starts, stops, strict=True)])
        others = np.flatnonzero(self._groups[rows] != group)
        rising = others[np.argsort(rows[others])]  # ties are decided by the row: by image id and position
        best = rising[_largest(scores[rising], count)]
        return rows[best], scores[best]

    def _fill(
        self,
        found: Found,
        at: int,
        rows: NDArray[np.int64],
        scores: NDArray[np.int32],
        exact: NDArray[np.float64],
    ) -> None:
        own = Found(self._image_ids[rows], self._positions[rows], self._boxes[rows], scores, exact)
        found.put((at, slice(len(rows))), own)


def positions_of(image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each RoI in its image, (n,) int64, where the RoIs of an image stand together."""
    rows = np.arange(len(image_ids))
    starts = np.flatnonzero(np.r_[True, np.diff(image_ids) != 0][: len(image_ids)])
    return rows - np.repeat(starts, np.diff(np.r_[starts, len(image_ids)]))


def join_rows(parts: Sequence[Found], count: int) -> Found:
    """Put the results of batches of queries, each ``count`` wide, below each other."""
    return Found._make(np.concatenate(fields) for fields in zip(_nothing(0, count), *parts, strict=True))


def best_candidates(shards: Sequence[Found], count: int) -> Found:
    """Merge the candidates of several shards: the best-scored of all, ties by image id and position."""
    found = _side_by_side(shards)
    return _taken(found, np.lexsort((found.positions, found.image_ids, -found.scores.astype(np.int64))), count)


def most_similar(shards: Sequence[Found], count: int) -> Found:
    """Choose the most similar RoIs that several shards found, ties by image id and position."""
    found = _side_by_side(shards)
    return _taken(found, np.lexsort((found.positions, found.image_ids, -found.similarities)), count)


def _side_by_side(shards: Sequence[Found]) -> Found:
    return Found._make(np.concatenate(fields, axis=1) for fields in zip(*shards, strict=True))


def _taken(found: Found, order: NDArray[np.int64], count: int) -> Found:
    rows = np.arange(len(order))[:, None]
    return Found._make(field[rows, order[:, :count]] for field in found)


def _nothing(queries: int, count: int) -> Found:
    shape = (queries, count)
    return Found(
        np.full(shape, -1, np.int64),
        np.full(shape, -1, np.int64),
        np.zeros((*shape, 4), np.int32),
        np.full(shape, _NO_SCORE, np.int32),
        np.full(shape, -np.inf),
    )


def _blocks(count: int, rows: int = 4096) -> list[slice]:
    starts = [*range(0, count, rows), count] if count else [0, 0]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def _largest(values: NDArray[np.int32] | NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the positions of the ``count`` largest values, falling, ties by position."""
    positions = np.arange(len(values))
    if count < len(values):
        threshold = np.partition(values, len(values) - count)[len(values) - count]
        positions = np.flatnonzero(values >= threshold)
    return positions[np.argsort(-values[positions].astype(np.float64), kind="stable")[:count]]


@kernel
def _add_scores(
    codes: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    bases: NDArray[np.int32],
    table: NDArray[np.int32],
    scores: NDArray[np.int32],
) -> None:
    """Score the codes of some lists, one list after another: the centre's product and those of the codewords."""
    at = 0
    for probe in range(len(starts)):
        for row in range(starts[probe], stops[probe]):
            total = bases[probe]
            for piece in range(codes.shape[1]):
                total += table[piece, codes[row, piece]]
            scores[at] = total
            at += 1
