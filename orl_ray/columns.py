"""NumPy arrays as Arrow columns and back: boxes, vectors, ragged lists."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_BOX = pa.list_(pa.int32(), 4)


def vector_column(vectors: NDArray[np.floating]) -> pa.FixedSizeListArray:
    """Wrap (n, D) vectors as a column of their type, without copying."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), type=pa.from_numpy_dtype(vectors.dtype))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def vectors_of(table: pa.Table) -> NDArray[np.float16]:
    """Read the column ``vector`` as (n, D) float16."""
    column = table["vector"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float16).reshape(len(column), column.type.list_size)


def box_column(boxes: NDArray[np.int32]) -> pa.FixedSizeListArray:
    """Wrap (n, 4) int32 boxes as a column of one box a row."""
    flat = pa.array(np.ascontiguousarray(boxes, dtype=np.int32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=_BOX)


def boxes_of(table: pa.Table, name: str) -> NDArray[np.int32]:
    """Read a column of one box a row as (n, 4) int32."""
    return np.asarray(table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False), np.int32).reshape(-1, 4)


def box_list_column(lists: Sequence[NDArray[np.int32]]) -> pa.ListArray:
    """Wrap n arrays of (m, 4) int32 boxes as a column of one list of boxes a row."""
    flat = np.concatenate([np.empty((0, 4), np.int32), *lists]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets_of(lists), pa.int32()), box_column(flat))


def box_lists_of(table: pa.Table, name: str) -> list[NDArray[np.int32]]:
    """Read a column of one list of boxes a row as n arrays of (m, 4) int32."""
    column = table[name].combine_chunks()
    offsets = column.offsets.to_numpy()
    boxes = np.asarray(column.values.values.to_numpy(zero_copy_only=False), np.int32).reshape(-1, 4)
    return [boxes[start:stop] for start, stop in itertools.pairwise(offsets)]


def list_column(lists: Sequence[NDArray[np.generic]], kind: pa.DataType) -> pa.ListArray:
    """Wrap n ragged one-dimensional arrays as a list column of ``kind``."""
    flat = np.concatenate(lists) if lists else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(offsets_of(lists), pa.int32()), pa.array(flat, type=kind))


def unknown_column(lists: Sequence[NDArray[np.generic]], kind: pa.DataType) -> pa.ListArray:
    """Return a list column of as many nulls a row as the ragged lists are long: what a source does not tell."""
    offsets = offsets_of(lists)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.nulls(int(offsets[-1]), kind))


def offsets_of(lists: Sequence[NDArray[np.generic]]) -> NDArray[np.int64]:
    """Return (n + 1,) int64: where each of n ragged lists starts when they are joined, and the end."""
    return np.cumsum([0, *(len(entry) for entry in lists)], dtype=np.int64)
