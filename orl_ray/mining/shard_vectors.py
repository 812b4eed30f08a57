"""One shard's image vectors in memory, by rising image id, gathered without ever holding them twice."""

import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.exact_similarity import widen

# Rows that are checked and copied at once: 16 MiB of float64 at 256 numbers a vector.
BLOCK_ROWS = 8192


class ShardVectors(NamedTuple):
    """The images of one shard. Rising ids make a position the order in which ties are decided.

    Attributes:
        ids: (n,) int64 image ids, rising.
        groups: (n,) int64 group of each image, whose images are no neighbours of each other; the ids themselves where
            each image is a group of its own.
        vectors: (n, D) unit vectors of float16 values, as float32 or float16; a float16 fits in either exactly.
    """

    ids: NDArray[np.int64]
    groups: NDArray[np.int64]
    vectors: NDArray[Any]

    def blocks(self) -> list[slice]:
        """Return slices that cover all rows, few enough at a time to be widened to float64."""
        return [slice(start, start + BLOCK_ROWS) for start in range(0, len(self.ids), BLOCK_ROWS)]


def shard_vectors(
    ids: NDArray[np.int64],
    parts: Iterable[NDArray[np.float16]],
    length: int,
    groups: NDArray[np.int64] | None = None,
    *,
    narrow: bool = False,
    mapped: bool = False,
) -> ShardVectors:
    """Gather a shard's vectors from the parts of a collection, each of which may be dropped once it was read.

    Memory: the matrix, 40 bytes a row beside it, and one part.

    Args:
        ids: (n,) int64 image ids, distinct, in any order; n may be 0.
        parts: (m, D) unit float16 vectors, which are together, row by row, those of ``ids``.
        length: D.
        groups: (n,) int64 group of each image; by default each image is a group of its own, named by its id.
        narrow: keep float16 instead of float32: half the memory, but faiss's flat search cannot read it.
        mapped: keep the matrix in an unnamed file in the node's folder for temporary files instead of memory; the file
            is gone when the matrix is.

    Returns:
        The shard.

    Raises:
        ValueError: ids, groups and vectors differ in number, an id occurs twice, or vectors are not unit float16 of
            this length.
    """
    ids = np.asarray(ids, dtype=np.int64)
    groups = ids if groups is None else np.asarray(groups, dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    rising = ids[order]
    repeated = np.flatnonzero(rising[1:] == rising[:-1])
    if repeated.size:
        raise ValueError(f"image id {rising[repeated[0]]} is in the index twice")
    places = np.empty_like(order)
    places[order] = np.arange(len(ids))
    vectors = _matrix((len(ids), length), np.float16 if narrow else np.float32, mapped=mapped)
    filled = 0
    for part in parts:
        if filled + len(part) <= len(ids):
            _fill(vectors, places[filled : filled + len(part)], part)
        filled += len(part)
    if filled != len(ids) or groups.shape != ids.shape:
        raise ValueError(f"each vector needs one id and one group: got {len(ids)}, {groups.shape} and {filled} vectors")
    return ShardVectors(rising, rising if groups is ids else groups[order], vectors)


def _matrix(shape: tuple[int, int], dtype: type, *, mapped: bool) -> NDArray[Any]:
    if not mapped or 0 in shape:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="orl-vectors-") as file:  # the mapping outlives the name and the handle
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def _fill(vectors: NDArray[Any], places: NDArray[np.int64], part: NDArray[np.float16]) -> None:
    for start in range(0, len(part), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        wide = widen(part[rows], "indexed vectors")
        if wide.shape[1] != vectors.shape[1]:
            raise ValueError(f"indexed vectors must be of length {vectors.shape[1]}, not {wide.shape[1]}")
        vectors[places[rows]] = part[rows]
