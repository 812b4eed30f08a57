"""Approximate indexes: they find candidates faster than a flat search, which are then scored exactly.

What an approximate index can do is to miss a neighbour; the similarities of those that it finds are exact, ties go to
the smaller id, and where candidates hold fewer than k images outside the query's group, the shard is scanned instead.

====  ================================================================  ===================================
kind  candidates                                                        memory, bytes a vector of D numbers
====  ================================================================  ===================================
ivf   in the lists of the nearest centroids, exact float16 values       4 D + 16
hnsw  by a walk through a graph (Malkov & Yashunin, TPAMI 2020)         4 D + 8 * 32 + 30
pq    as ivf, but by product-quantised codes (Jegou et al., TPAMI 2011) D / 4 + 16, and 2 D in a file
====  ================================================================  ===================================

Sizes follow from the shard: about 4 sqrt(n) lists, trained on a keyed sample of 40 images a list, 1 in 32 of which a
search looks into; 32 links a node. ``effort`` multiplies what a search looks at. An index is built with one thread,
lists are chosen by exact similarities, and faiss scores candidates one by one, so results do not depend on threads or
batches of queries. They do depend on the shards, and on what float32 rounds to on the machine's kind of CPU.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.mining.exact_search import (
    Neighbors,
    best_of,
    candidate_count,
    checked_queries,
    exact_similarities,
    scan_instead,
)
from orl_ray.mining.exact_similarity import similarities
from orl_ray.mining.shard_vectors import ShardVectors

# A smaller shard is scanned: that takes no longer, and there is too little to train on.
_SMALLEST = 2048
TRAINED_ON_A_LIST = 40  # faiss warns below 39
_LISTS_A_PROBE = 32
_FEWEST_PROBES = 8
_CODE_BITS = 8
_CODES_TRAINED_ON = 64 * 2**_CODE_BITS
_NUMBERS_A_CODE = 4
# Codes tell less than vectors do, so that many times as many candidates are scored exactly.
_CODED_CANDIDATES = 4
_LINKS, _BUILD_EFFORT, _SEARCH_EFFORT = 32, 80, 96
# Float64 similarities to centroids that are held at once: 16 MiB.
_WORKING_NUMBERS = 1 << 21
_QUERIES = 4096


class ApproximateIndex:
    """A shard's image vectors, searchable approximately.

    Args:
        shard: the shard; float16 vectors are enough, and may be mapped from a file.
        kind: ``ivf``, ``hnsw`` or ``pq``.
        seed: the run's seed; it draws the images that an index is trained on.
        effort: multiplies how many lists or nodes a search looks at.

    Raises:
        ValueError: no such kind.
    """

    def __init__(self, shard: ShardVectors, kind: str, seed: int, effort: int = 1) -> None:
        if kind not in ("ivf", "hnsw", "pq"):
            raise ValueError(f"no such kind of approximate index: {kind}")
        self._shard, self._wider = shard, (_CODED_CANDIDATES if kind == "pq" else 1)
        self._index: _CandidateIndex | None = None
        if len(shard.ids) >= _SMALLEST:
            with _one_thread():
                self._index = (
                    _Graph(shard, effort) if kind == "hnsw" else _Lists(shard, seed, effort, coded=kind == "pq")
                )

    def search(self, queries: NDArray[np.float16], query_groups: NDArray[np.int64], k: int) -> Neighbors:
        """Find similar images of each query, most of them the k most similar; as :meth:`ExactIndex.search` otherwise.

        Raises:
            ValueError: queries are not unit float16 vectors of the index's length, or lack groups, or k is below 1.
        """
        if self._index is None:
            return self.search_exactly(queries, query_groups, k)
        wide, query_groups = checked_queries(self._shard, queries, query_groups, k)
        count = min(candidate_count(k) * self._wider, len(self._shard.ids))
        found = Neighbors(np.empty((len(wide), k), np.int64), np.empty((len(wide), k)))
        for start in range(0, len(wide), _QUERIES):
            rows = slice(start, start + _QUERIES)
            positions = self._index.candidates(wide[rows], count)
            exact = exact_similarities(self._shard, positions, wide[rows])
            found.ids[rows], found.similarities[rows] = best_of(self._shard, positions, exact, query_groups[rows], k)
        scan_instead(self._shard, found, np.isneginf(found.similarities[:, -1]), wide, query_groups)
        return found

    def search_exactly(self, queries: NDArray[np.float16], query_groups: NDArray[np.int64], k: int) -> Neighbors:
        """Find the k most similar images by a scan of the whole shard: what recall is measured against."""
        wide, query_groups = checked_queries(self._shard, queries, query_groups, k)
        found = Neighbors(np.full((len(wide), k), -1, np.int64), np.full((len(wide), k), -np.inf))
        scan_instead(self._shard, found, np.ones(len(wide), np.bool_), wide, query_groups)
        return found


class _CandidateIndex(Protocol):
    def candidates(self, queries: NDArray[np.float64], count: int) -> NDArray[np.int64]:
        """Return (q, count) positions in the shard of likely neighbours, -1 where there are fewer."""


class _Lists:
    """An inverted file: each image is in the list of its nearest centroid, as its vector or as codes."""

    def __init__(self, shard: ShardVectors, seed: int, effort: int, *, coded: bool) -> None:
        faiss = _faiss()
        count, length = shard.vectors.shape
        lists = max(1, min(round(4 * count**0.5), count // TRAINED_ON_A_LIST))
        self._probes = min(lists, max(_FEWEST_PROBES, lists // _LISTS_A_PROBE) * effort)
        drawn = np.argsort(draws.uniform(draws.stream(seed, "neighbors", "index"), shard.ids, 1)[:, 0], kind="stable")
        sample = shard.vectors[drawn[: TRAINED_ON_A_LIST * lists]].astype(np.float32)
        kmeans = faiss.Kmeans(length, lists, niter=10, spherical=True, seed=1)
        kmeans.train(sample)
        # On this grid similarities are exact, so that threads and batches choose the same lists.
        self._centroids = np.rint(kmeans.centroids.astype(np.float64) * 2.0**24) / 2.0**24
        self._quantizer = faiss.IndexFlatIP(length)
        self._quantizer.add(self._centroids.astype(np.float32))
        self._index = self._new_index(length, lists, coded=coded)
        self._index.train(sample[:_CODES_TRAINED_ON])
        del sample
        self._index.nprobe = self._probes
        for rows in shard.blocks():
            vectors = np.ascontiguousarray(shard.vectors[rows], np.float32)
            own, _ = self._nearest(vectors.astype(np.float64), 1)
            places = np.arange(rows.start, rows.start + len(vectors), dtype=np.int64)
            arrays = (vectors, places, np.ascontiguousarray(own[:, 0]))
            self._index.add_core(len(vectors), *(faiss.swig_ptr(array) for array in arrays))

    def _new_index(self, length: int, lists: int, *, coded: bool) -> Any:
        faiss = _faiss()
        if not coded:  # a float16 keeps all of a vector
            kind = faiss.ScalarQuantizer.QT_fp16
            return faiss.IndexIVFScalarQuantizer(
                self._quantizer, length, lists, kind, faiss.METRIC_INNER_PRODUCT, False
            )
        numbers = next(n for n in range(_NUMBERS_A_CODE, length + 1) if length % n == 0)
        return faiss.IndexIVFPQ(
            self._quantizer, length, lists, length // numbers, _CODE_BITS, faiss.METRIC_INNER_PRODUCT
        )

    def candidates(self, queries: NDArray[np.float64], count: int) -> NDArray[np.int64]:
        probed, near = self._nearest(queries, self._probes)
        narrow = queries.astype(np.float32)
        positions: NDArray[np.int64] = self._index.search_preassigned(narrow, count, probed, near.astype(np.float32))[1]
        return positions

    def _nearest(self, vectors: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the (n, count) nearest centroids and their similarities, exactly; ties to the first."""
        nearest, near = np.empty((len(vectors), count), np.int64), np.empty((len(vectors), count))
        step = max(1, _WORKING_NUMBERS // len(self._centroids))
        for start in range(0, len(vectors), step):
            rows = slice(start, start + step)
            found = similarities(vectors[rows], self._centroids)
            if count == 1:
                nearest[rows] = found.argmax(axis=1)[:, None]
            else:
                nearest[rows] = np.argsort(-found, axis=1, kind="stable")[:, :count]
            near[rows] = np.take_along_axis(found, nearest[rows], 1)
        return nearest, near


class _Graph:
    """A hierarchical navigable small world: nodes hold exact float16 vectors."""

    def __init__(self, shard: ShardVectors, effort: int) -> None:
        faiss = _faiss()
        kind = faiss.ScalarQuantizer.QT_fp16
        self._index = faiss.IndexHNSWSQ(shard.vectors.shape[1], kind, _LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = _BUILD_EFFORT
        self._effort = effort
        for rows in shard.blocks():
            vectors = np.ascontiguousarray(shard.vectors[rows], np.float32)
            if rows.start == 0:
                self._index.train(vectors)
            self._index.add(vectors)

    def candidates(self, queries: NDArray[np.float64], count: int) -> NDArray[np.int64]:
        faiss = _faiss()
        wanted = faiss.SearchParametersHNSW(efSearch=max(_SEARCH_EFFORT, count) * self._effort)
        positions: NDArray[np.int64] = self._index.search(queries.astype(np.float32), count, params=wanted)[1]
        return positions


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Build with one thread: several would link a graph in the order in which they come, and add in other orders."""
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _faiss() -> Any:
    """Load faiss, only where an index is built or searched; its type stubs do not cover all that it has."""
    import faiss

    return faiss
