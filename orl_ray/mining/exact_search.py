"""Exact nearest neighbours by cosine similarity: faiss finds candidates in float32, float64 decides.

The result is a function of the vectors and ids alone: not of shards, query batches, threads or the BLAS behind faiss,
whose float32 sums change with all four. Ties go to the smaller id. What is excluded is known by its group, not by its
rank: a query's own image, and the near-duplicates of it where groups are given.

Only a process that builds an index imports faiss. It must never fork after that: faiss's OpenMP threads hang the
child.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.exact_similarity import similarities, widen

# Candidates beyond k. They cost little, and make it rare that float32 cannot tell where the k-th neighbour lies.
_MARGIN = 32
# Float64 numbers held at once while candidates are re-scored: 64 MiB.
_WORKING_NUMBERS = 1 << 23
# Where there are more similarities a query than this, only those that may be among the k best are sorted.
_SORTED_WIDTH = 256
# A scan of the whole index holds a similarity matrix of these sizes: 16 MiB.
_BLOCK_ROWS, _SCAN_QUERIES = 8192, 256


class Neighbors(NamedTuple):
    """Neighbours of q queries, by falling similarity, equal ones by rising id.

    Attributes:
        ids: (q, k) int64; -1 where there are fewer than k.
        similarities: (q, k) float64 cosines, exact; minus infinity where there are fewer than k (that tells the end, as
            -1 may also be an image's id).
    """

    ids: NDArray[np.int64]
    similarities: NDArray[np.float64]


class ExactIndex:
    """A shard's image vectors, searchable exactly.

    Memory: 6 bytes a number (the float16 vectors, and faiss's float32 copy).

    Args:
        ids: (n,) int64 image ids, distinct, in any order; n may be 0.
        vectors: (n, D) unit float16 vectors, row by row those of ``ids``.
        groups: (n,) int64 group of each image, whose images are no neighbours of each other; by default each image is a
            group of its own, named by its id.

    Raises:
        ValueError: ids, vectors and groups differ in number, an id occurs twice, or vectors are not unit float16.
    """

    def __init__(
        self, ids: NDArray[np.int64], vectors: NDArray[np.float16], groups: NDArray[np.int64] | None = None
    ) -> None:
        ids = np.asarray(ids, dtype=np.int64)
        groups = ids if groups is None else np.asarray(groups, dtype=np.int64)
        if vectors.ndim != 2 or not ids.shape == groups.shape == (len(vectors),):
            shapes = f"ids {ids.shape}, groups {groups.shape} and vectors {vectors.shape}"
            raise ValueError(f"each vector needs one id and one group: got {shapes}")
        order = np.argsort(ids, kind="stable")
        # Rising ids make the position in the index the order in which ties are decided.
        self._ids, self._vectors, self._groups = ids[order], vectors[order], groups[order]
        repeated = np.flatnonzero(np.diff(self._ids) == 0)
        if repeated.size:
            raise ValueError(f"image id {self._ids[repeated[0]]} is in the index twice")
        import faiss  # here, so that a process that only merges never loads faiss's OpenMP

        self._index: Any = faiss.IndexFlatIP(vectors.shape[1])
        for rows in self._blocks():
            self._index.add(widen(self._vectors[rows], "indexed vectors").astype(np.float32))

    def search(self, queries: NDArray[np.float16], query_groups: NDArray[np.int64], k: int) -> Neighbors:
        """Find the k most similar images of each query, without the images of the query's own group.

        Args:
            queries: (q, D) unit float16 vectors.
            query_groups: (q,) int64 groups of the queries' images (their ids, where the index was given no groups);
                they need not be in this index.
            k: neighbours wanted, at least 1.

        Returns:
            The neighbours, exact.

        Raises:
            ValueError: queries are not unit float16 vectors of the index's length, or lack groups, or k is below 1.
        """
        query_groups = np.asarray(query_groups, dtype=np.int64)
        if k < 1:
            raise ValueError(f"at least one neighbour must be asked for, not {k}")
        wide = widen(queries, "queries")
        if wide.shape[1] != self._vectors.shape[1] or query_groups.shape != (len(wide),):
            length, shapes = self._vectors.shape[1], f"queries {wide.shape}, groups {query_groups.shape}"
            raise ValueError(f"{shapes}: the index needs (q, {length}) and (q,)")
        found = _nothing(len(wide), k)
        step = max(1, _WORKING_NUMBERS // ((k + 1 + _MARGIN) * wide.shape[1]))
        for start in range(0, len(wide) if len(self._ids) else 0, step):
            rows = slice(start, start + step)
            found.ids[rows], found.similarities[rows] = self._search_block(wide[rows], query_groups[rows], k)
        return found

    def _search_block(self, queries: NDArray[np.float64], query_groups: NDArray[np.int64], k: int) -> Neighbors:
        """Re-score float32 candidates, and scan the whole index for the queries whose neighbours these may not hold.

        An image outside the candidates is at most as similar, in float32, as the last of them; and float32 errs by less
        than D * 2^-23 on unit vectors, in any order of summation (half of that, to first order: Higham, "Accuracy and
        stability of numerical algorithms", 2002, section 3.1). So the neighbours are the true ones if the k-th is more
        similar than the last candidate plus this bound. Where a query's own group takes up the candidates, as in a long
        film, there is no such k-th.
        """
        count, length = self._vectors.shape
        candidates = min(count, k + 1 + _MARGIN)
        rough, positions = self._index.search(queries.astype(np.float32), candidates)
        positions.sort(axis=1)
        exact = np.matmul(self._vectors[positions].astype(np.float64), queries[:, :, None])[:, :, 0] + 0.0
        own = self._groups[positions] == query_groups[:, None]
        found = _top(self._ids[positions], np.where(own, -np.inf, exact), k)
        bound = rough.min(axis=1).astype(np.float64) + length * 2.0**-23
        unproven = np.flatnonzero((found.similarities[:, -1] <= bound) & (candidates < count))
        for start in range(0, unproven.size, _SCAN_QUERIES):
            rows = unproven[start : start + _SCAN_QUERIES]
            found.ids[rows], found.similarities[rows] = self._scan(queries[rows], query_groups[rows], k)
        return found

    def _scan(self, queries: NDArray[np.float64], query_groups: NDArray[np.int64], k: int) -> Neighbors:
        """Search by float64 products with the whole index: for queries whose neighbours float32 cannot tell apart.

        One such pass costs about as much as two of float32, so it stands in for asking for ever more candidates.
        """
        best = _nothing(len(queries), k)
        for rows in self._blocks():
            exact = similarities(queries, self._vectors[rows])
            exact[self._groups[rows] == query_groups[:, None]] = -np.inf
            best = merge_neighbors([best, _top(np.broadcast_to(self._ids[rows], exact.shape), exact, k)], k)
        return best

    def _blocks(self) -> list[slice]:
        return [slice(start, start + _BLOCK_ROWS) for start in range(0, len(self._ids), _BLOCK_ROWS)]


def merge_neighbors(parts: Sequence[Neighbors], k: int) -> Neighbors:
    """Merge the neighbours that several shards found for the same queries.

    Args:
        parts: one (q, k') result a shard, at least one, over disjoint sets of images.
        k: neighbours wanted, at least 1.

    Returns:
        The k best of all parts: what one index over all shards' images finds, if each part holds its k best.

    Raises:
        ValueError: no parts, or parts over different numbers of queries.
    """
    if not parts or len({len(part.ids) for part in parts}) > 1:
        raise ValueError(f"neighbours to merge must be of the same queries: got {[part.ids.shape for part in parts]}")
    ids = np.concatenate([part.ids for part in parts], axis=1)
    order = np.argsort(ids, axis=1, kind="stable")
    found = np.concatenate([part.similarities for part in parts], axis=1)
    return _top(np.take_along_axis(ids, order, 1), np.take_along_axis(found, order, 1), k)


def _nothing(queries: int, k: int) -> Neighbors:
    return Neighbors(np.full((queries, k), -1, dtype=np.int64), np.full((queries, k), -np.inf))


def _top(ids: NDArray[np.int64], found: NDArray[np.float64], k: int) -> Neighbors:
    """Take each row's k largest of (q, c) similarities, whose ids rise along it; minus infinity is no neighbour."""
    if found.shape[1] > _SORTED_WIDTH:
        ids, found = _at_least_kth(ids, found, k)
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    top, width = _nothing(len(ids), k), order.shape[1]
    top.similarities[:, :width] = np.take_along_axis(found, order, 1)
    top.ids[:, :width] = np.where(np.isneginf(top.similarities[:, :width]), -1, np.take_along_axis(ids, order, 1))
    return top


def _at_least_kth(
    ids: NDArray[np.int64], found: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Narrow (q, c) similarities down to columns that hold all as large as each row's k-th, in the same order."""
    kth = (
        -np.partition(-found, k - 1, axis=1)[:, k - 1 : k] if k <= found.shape[1] else np.full((len(found), 1), -np.inf)
    )
    wanted = found >= kth
    columns = np.argsort(~wanted, axis=1, kind="stable")[:, : wanted.sum(axis=1).max(initial=0)]
    return np.take_along_axis(ids, columns, 1), np.take_along_axis(found, columns, 1)
