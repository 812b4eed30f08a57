"""IVF-PQ for RoI vectors, in arithmetic that does not round: lists, codes and scores depend on the vectors alone.

A vector lies in the list of its nearest centre, and what is left of it is coded a byte a piece (Jégou, Douze & Schmid,
"Product quantization for nearest neighbor search", TPAMI 2011). faiss fits centres and codewords on a sample, once, for
all shards. Both are then rounded to float16, so that their products with RoI vectors are exact in float64
(:mod:`orl_ray.mining.exact_similarity`), and scores are sums of whole numbers. faiss's own float32 sums differ in their
last bits with a vector's place in its list, so the candidates would depend on how RoIs are sharded.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.mining.exact_similarity import similarities, widen

CODEWORDS = 256
# Below so many RoIs an exact scan is cheap, and nothing is fitted.
FLAT_BELOW = 20_000
# RoIs that centres and codewords are fitted on, about; all of them where there are fewer.
SAMPLE = 65_536
# What a score of 1 is as a whole number.
_UNIT = 2.0**24
_MOST_LISTS = 2048
_ITERATIONS = 20
_BLOCK_ROWS = 4096


class Codebook(NamedTuple):
    """What all shards code their RoI vectors by.

    Attributes:
        centers: (L, D) float16, the centre of each list.
        codewords: (M, 256, D / M) float16, the codewords of each piece of what the centre leaves.
    """

    centers: NDArray[np.float16]
    codewords: NDArray[np.float16]


class Probes(NamedTuple):
    """The lists that are nearest to some vectors, nearest first.

    Attributes:
        lists: (n, p) int64.
        scores: (n, p) int32 dot products with their centres, in units of 2^-24.
    """

    lists: NDArray[np.int64]
    scores: NDArray[np.int32]


def list_count(rois: int, wanted: int) -> int:
    """Choose how many lists a collection gets.

    Args:
        rois: RoIs of the collection.
        wanted: lists that a config asks for; 0 leaves it to the number of RoIs.

    Returns:
        The lists; 0 where an exact scan is to be made: about 2 * sqrt(rois), a power of two, at most 2048.
    """
    if wanted or rois < FLAT_BELOW:
        return wanted
    power: int = 2 ** round(math.log2(2 * math.sqrt(rois)))
    return min(_MOST_LISTS, power)


def in_sample(
    image_ids: NDArray[np.int64], positions: NDArray[np.int64], rois: int, seed: int, size: int = SAMPLE
) -> NDArray[np.bool_]:
    """Choose RoIs by a keyed draw.

    Args:
        image_ids: (n,) images of the RoIs.
        positions: (n,) int64 positions of the RoIs in their images.
        rois: RoIs of the whole collection.
        seed: the run's seed.
        size: how many are wanted of the collection, about.

    Returns:
        (n,) bool.
    """
    chosen = np.zeros(len(image_ids), np.bool_)
    for position in np.unique(positions).tolist():
        rows = positions == position
        key = draws.stream(seed, "roi_codebook", "sample", position)
        chosen[rows] = draws.uniform(key, image_ids[rows], 1)[:, 0] * rois < size
    return chosen


def fit_codebook(vectors: NDArray[np.float16], lists: int, pieces: int, seed: int) -> Codebook:
    """Fit centres and codewords on a sample, in one thread: more would change bits with the machine.

    Args:
        vectors: (n, D) unit vectors.
        lists: L, at least 1.
        pieces: M, bytes of a code.
        seed: the run's seed.

    Raises:
        ValueError: vectors that are not unit float16, fewer than lists or codewords, or D that M does not divide.
    """
    import faiss

    wide = widen(vectors, "RoI vectors of the sample")
    count, width = wide.shape
    if count < max(lists, CODEWORDS):
        raise ValueError(f"{lists} lists and {CODEWORDS} codewords cannot be fitted on {count} RoIs: lower the lists")
    if width % pieces:
        raise ValueError(f"RoI vectors of {width} numbers cannot be coded in {pieces} bytes: take a divisor of {width}")
    number = draws.stream(seed, "roi_codebook", "fit") % 2**31
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        limits = {"min_points_per_centroid": 1, "max_points_per_centroid": count}
        rough = faiss.Kmeans(width, lists, niter=_ITERATIONS, seed=number, **limits)
        rough.train(wide.astype(np.float32))
        centers = np.asarray(rough.centroids).reshape(lists, width).astype(np.float16)
        left = wide - centers[_nearest(wide, centers, 1)[0][:, 0]]
        fine = faiss.ProductQuantizer(width, pieces, 8)
        fine.cp.seed, fine.cp.min_points_per_centroid = number, 1
        fine.train(left.astype(np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    codewords = faiss.vector_to_array(fine.centroids).reshape(pieces, CODEWORDS, width // pieces)
    return Codebook(centers, codewords.astype(np.float16))


def nearest_lists(codebook: Codebook, vectors: NDArray[np.float16], count: int) -> Probes:
    """Find the lists whose centres are nearest to each vector, ties by the list's number.

    Args:
        codebook: the codebook.
        vectors: (n, D) unit vectors.
        count: lists wanted, at least 1; no more than there are are returned.

    Raises:
        ValueError: vectors that are not unit float16.
    """
    blocks = [
        _nearest(widen(vectors[start : start + _BLOCK_ROWS], "RoI vectors"), codebook.centers, count)
        for start in range(0, max(1, len(vectors)), _BLOCK_ROWS)
    ]
    return Probes(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def encode(codebook: Codebook, vectors: NDArray[np.float16], lists: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Code vectors: of each piece of what the centre leaves, the nearest codeword, ties by its number.

    Args:
        codebook: the codebook.
        vectors: (n, D) unit vectors.
        lists: (n,) int64, the list of each.

    Returns:
        (n, M) uint8.
    """
    words = codebook.codewords.astype(np.float64)
    half = np.einsum("mcd,mcd->mc", words, words) / 2
    codes = np.empty((len(vectors), len(words)), np.uint8)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        left = vectors[rows].astype(np.float64) - codebook.centers[lists[rows]]
        pieces = left.reshape(len(left), len(words), -1)
        for piece, (own, offset) in enumerate(zip(words, half, strict=True)):
            codes[rows, piece] = (pieces[:, piece] @ own.T - offset).argmax(axis=1)
    return codes


def score_tables(codebook: Codebook, queries: NDArray[np.float16]) -> NDArray[np.int32]:
    """Multiply the pieces of queries with all codewords: (q, M, 256) int32, in units of 2^-24."""
    words = codebook.codewords.astype(np.float64)
    pieces = queries.astype(np.float64).reshape(len(queries), len(words), -1)
    products = np.matmul(pieces.transpose(1, 0, 2), words.transpose(0, 2, 1))
    return np.ascontiguousarray(np.rint(products * _UNIT).astype(np.int32).transpose(1, 0, 2))


def _nearest(wide: NDArray[np.float64], centers: NDArray[np.float16], count: int) -> Probes:
    """Find the lists with the largest x . c - |c|^2 / 2: those of the nearest centres, without rounding."""
    exact = centers.astype(np.float64)
    products = similarities(wide, exact)
    order = np.argsort(np.einsum("ld,ld->l", exact, exact) / 2 - products, axis=1, kind="stable")[:, :count]
    return Probes(order, np.rint(np.take_along_axis(products, order, 1) * _UNIT).astype(np.int32))
