"""Exact nearest neighbours by cosine similarity: faiss finds candidates in float32, float64 decides.

The result is a function of the vectors and ids alone: not of shards, query batches, threads, the BLAS behind faiss or
a GPU, whose float32 sums change with all five. Ties go to the smaller id. What is excluded is known by its group, not
by its rank: a query's own image, and the near-duplicates of it where groups are given.

Only a process that builds an index imports faiss. It must never fork after that: faiss's OpenMP threads hang the
child.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.exact_similarity import similarities, widen
from orl_ray.mining.shard_vectors import ShardVectors

# Candidates beyond k. They cost little, and make it rare that float32 cannot tell where the k-th neighbour lies.
_MARGIN = 32
# Float64 numbers held at once while candidates are re-scored: 16 MiB.
_WORKING_NUMBERS = 1 << 21
# Queries that faiss gets at once; its matrix products are faster for many, and its buffers 16 MiB for this many.
_QUERIES = 4096
# From this many queries on, faiss takes matrix products.
_MULTIPLIED_QUERIES = 4
# Where there are more similarities a query than this, only those that may be among the k best are sorted.
_SORTED_WIDTH = 256
# A scan of the whole shard holds a similarity matrix of this many rows, of a block of the shard each: 16 MiB.
_SCAN_QUERIES = 256
# Most candidates a query that faiss's GPU search can select.
_GPU_CANDIDATES = 2048
# Bytes of a GPU's memory that faiss may use beside the vectors; its default would be gigabytes an actor.
_GPU_SCRATCH_BYTES = 2**28


class Neighbors(NamedTuple):
    """Neighbours of q queries, by falling similarity, equal ones by rising id.

    Attributes:
        ids: (q, k) int64; -1 where there are fewer than k.
        similarities: (q, k) float64 cosines, exact; minus infinity where there are fewer than k.
    """

    ids: NDArray[np.int64]
    similarities: NDArray[np.float64]


class ExactIndex:
    """A shard's image vectors, searchable exactly.

    Memory: 4 bytes a number, as faiss searches the shard's own float32 matrix; on a GPU the same again there.

    Args:
        shard: float32 vectors of the shard's images.
        on_gpu: search on the first GPU that this process sees. Results are the same.

    Raises:
        ValueError: the vectors are not float32.
        RuntimeError: faiss sees no GPU.
    """

    def __init__(self, shard: ShardVectors, *, on_gpu: bool = False) -> None:
        if shard.vectors.dtype != np.float32:
            raise ValueError(f"faiss's flat search reads float32 vectors, not {shard.vectors.dtype}")
        self._shard = shard
        gpu: tuple[Any, Any] = _copy_to_gpu(shard) if on_gpu else (None, None)
        self._gpu_resources, self._gpu_index = gpu

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
            ValueError: queries are not unit float16 vectors of the index's length, or lack groups, or k is below 1, or
                above what a GPU can select.
            ArithmeticError: faiss's similarities are off by more than float32 can be (a GPU that computes in TF32).
        """
        wide, query_groups = checked_queries(self._shard, queries, query_groups, k)
        if self._gpu_index is not None:
            check_gpu_candidates(k)
        found = _nothing(len(wide), k)
        for start in range(0, len(wide) if len(self._shard.ids) else 0, _QUERIES):
            rows = slice(start, start + _QUERIES)
            found.ids[rows], found.similarities[rows] = self._search_block(wide[rows], query_groups[rows], k)
        return found

    def _search_block(self, queries: NDArray[np.float64], query_groups: NDArray[np.int64], k: int) -> Neighbors:
        """Re-score float32 candidates, and scan the whole shard for the queries whose neighbours these may not hold.

        An image outside the candidates is at most as similar, in float32, as the last of them; and float32 errs by less
        than D * 2^-23 on unit vectors, in any order of summation (half of that, to first order: Higham, "Accuracy and
        stability of numerical algorithms", 2002, section 3.1). So the neighbours are the true ones if the k-th is more
        similar than the last candidate plus this bound. Where a query's own group takes up the candidates, as in a long
        film, there is no such k-th.
        """
        count, length = self._shard.vectors.shape
        candidates, error = min(count, candidate_count(k)), length * 2.0**-23
        rough, positions = self._candidates(queries.astype(np.float32), candidates)
        exact = exact_similarities(self._shard, positions, queries)
        if (np.abs(rough - exact) > error).any():
            raise ArithmeticError("faiss's similarities are off by more than float32 can be: is TF32 forced on a GPU?")
        found = best_of(self._shard, positions, exact, query_groups, k)
        unproven = (found.similarities[:, -1] <= rough.min(axis=1) + error) & (candidates < count)
        scan_instead(self._shard, found, unproven, queries, query_groups)
        return found

    def _candidates(self, queries: NDArray[np.float32], count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return (q, count) float32 similarities, as float64, and positions of the best."""
        import faiss  # here, so that a process that only merges never loads faiss's OpenMP

        # By itself faiss 1.15 takes matrix products from 128,000 numbers on, and is many times slower below.
        faiss.cvar.distance_compute_blas_threshold = _MULTIPLIED_QUERIES * queries.shape[1]
        if self._gpu_index is not None:
            rough, positions = self._gpu_index.search(queries, count)
        else:
            rough, positions = faiss.knn(queries, self._shard.vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
        return rough.astype(np.float64), positions


def candidate_count(k: int) -> int:
    """Return how many float32 candidates a query decide on its k neighbours."""
    return k + 1 + _MARGIN


def check_gpu_candidates(k: int) -> None:
    """Check that faiss's GPU search can select the candidates for k neighbours.

    Raises:
        ValueError: there would be too many.
    """
    if candidate_count(k) > _GPU_CANDIDATES:
        most = _GPU_CANDIDATES - candidate_count(0)
        raise ValueError(f"search on a GPU finds at most {most} neighbours, not {k}: lower mining.k_max")


def checked_queries(
    shard: ShardVectors, queries: NDArray[np.float16], query_groups: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Check queries against a shard; return them as float64 and their groups as int64.

    Raises:
        ValueError: as :meth:`ExactIndex.search`.
    """
    query_groups = np.asarray(query_groups, dtype=np.int64)
    if k < 1:
        raise ValueError(f"at least one neighbour must be asked for, not {k}")
    wide, length = widen(queries, "queries"), shard.vectors.shape[1]
    if wide.shape[1] != length or query_groups.shape != (len(wide),):
        shapes = f"queries {wide.shape}, groups {query_groups.shape}"
        raise ValueError(f"{shapes}: the index needs (q, {length}) and (q,)")
    return wide, query_groups


def exact_similarities(
    shard: ShardVectors, positions: NDArray[np.int64], queries: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Score candidates exactly.

    Args:
        shard: the shard.
        positions: (q, c) rows of the shard, any of them -1 for no candidate.
        queries: (q, D) float64.

    Returns:
        (q, c) float64 similarities, minus infinity for no candidate.
    """
    exact = np.empty(positions.shape)
    step = max(1, _WORKING_NUMBERS // max(1, positions.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        vectors = shard.vectors[positions[rows]].astype(np.float64)
        exact[rows] = np.matmul(vectors, queries[rows, :, None])[:, :, 0]
    # A sum of zeros is -0.0 or 0.0 depending on its order; adding 0.0 leaves one of them.
    return np.where(positions < 0, -np.inf, exact + 0.0)


def best_of(
    shard: ShardVectors,
    positions: NDArray[np.int64],
    exact: NDArray[np.float64],
    query_groups: NDArray[np.int64],
    k: int,
) -> Neighbors:
    """Take the k best of (q, c) scored candidates that are not of the query's own group."""
    order = np.argsort(positions, axis=1)
    positions, exact = np.take_along_axis(positions, order, 1), np.take_along_axis(exact, order, 1)
    own = shard.groups[positions] == query_groups[:, None]
    return _top(shard.ids[positions], np.where(own, -np.inf, exact), k)


def scan_instead(
    shard: ShardVectors,
    found: Neighbors,
    which: NDArray[np.bool_],
    queries: NDArray[np.float64],
    query_groups: NDArray[np.int64],
) -> None:
    """Replace the neighbours of some queries by those of :func:`scan`."""
    rows = np.flatnonzero(which)
    for start in range(0, rows.size, _SCAN_QUERIES):
        some = rows[start : start + _SCAN_QUERIES]
        scanned = scan(shard, queries[some], query_groups[some], found.ids.shape[1])
        found.ids[some], found.similarities[some] = scanned


def scan(shard: ShardVectors, queries: NDArray[np.float64], query_groups: NDArray[np.int64], k: int) -> Neighbors:
    """Search by float64 products with the whole shard: for queries whose neighbours candidates may not hold.

    One such pass costs about as much as two of float32, so it stands in for asking for ever more candidates.
    """
    best = _nothing(len(queries), k)
    for rows in shard.blocks():
        exact = similarities(queries, shard.vectors[rows])
        exact[shard.groups[rows] == query_groups[:, None]] = -np.inf
        best = merge_neighbors([best, _top(np.broadcast_to(shard.ids[rows], exact.shape), exact, k)], k)
    return best


def _copy_to_gpu(shard: ShardVectors) -> tuple[Any, Any]:
    """Return faiss's handle of the GPU, which the index needs to stay alive, and the index."""
    import faiss

    if not faiss.get_num_gpus():
        raise RuntimeError("faiss sees no GPU: faiss-gpu and a GPU are needed, or execution.use_gpu=false")
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH_BYTES)
    index = faiss.GpuIndexFlatIP(resources, shard.vectors.shape[1])
    for rows in shard.blocks():
        index.add(shard.vectors[rows])
    return resources, index


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
