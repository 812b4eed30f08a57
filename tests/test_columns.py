"""Arrays as Arrow columns and back: whatever goes in comes out, also of slices, chunks and empty tables."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orl_ray.columns import (
    box_column,
    box_list_column,
    box_lists_of,
    boxes_of,
    list_column,
    offsets_of,
    unknown_column,
    vector_column,
    vectors_of,
)

BOXES = st.integers(0, 5).flatmap(lambda rows: hnp.arrays(np.int32, (rows, 4)))
BOX_LISTS = st.lists(BOXES, max_size=6)


def tables(column, name):
    """Give the same rows whole, in chunks, as the inside of a larger table, and through Parquet's writer."""
    whole = pa.table({name: column})
    yield whole
    yield pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    yield pa.concat_tables([whole, whole, whole]).combine_chunks().slice(len(whole), len(whole))


@given(hnp.arrays(np.float16, st.tuples(st.integers(0, 6), st.integers(1, 5)), elements=st.floats(-1, 1, width=16)))
def test_vectors_come_back(vectors):
    for table in tables(vector_column(vectors), "vector"):
        found = vectors_of(table)
        assert (found.dtype, found.shape) == (np.float16, vectors.shape)
        np.testing.assert_array_equal(found, vectors)


@given(BOXES)
def test_boxes_come_back(boxes):
    for table in tables(box_column(boxes), "box"):
        found = boxes_of(table, "box")
        assert (found.dtype, found.shape) == (np.int32, boxes.shape)
        np.testing.assert_array_equal(found, boxes)


@given(BOX_LISTS)
def test_lists_of_boxes_come_back(lists):
    for table in tables(box_list_column(lists), "boxes"):
        found = box_lists_of(table, "boxes")
        assert len(found) == len(lists)
        for got, want in zip(found, lists, strict=True):
            assert (got.dtype, got.shape) == (np.int32, want.shape)
            np.testing.assert_array_equal(got, want)


@given(BOX_LISTS, st.data())
def test_lists_of_boxes_survive_a_filter(lists, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(lists), max_size=len(lists)))
    table = pa.table({"boxes": box_list_column(lists)}).filter(pa.array(kept, pa.bool_()))
    found = box_lists_of(table, "boxes")
    wanted = [boxes for boxes, keep in zip(lists, kept, strict=True) if keep]
    assert [boxes.tolist() for boxes in found] == [boxes.tolist() for boxes in wanted]


@given(st.lists(hnp.arrays(np.int64, st.integers(0, 5)), max_size=6))
def test_ragged_numbers_come_back(lists):
    column = list_column(lists, pa.int64())
    assert column.type == pa.list_(pa.int64())
    assert column.to_pylist() == [entry.tolist() for entry in lists]


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.float64()])
def test_no_lists_give_an_empty_column_of_the_right_kind(kind):
    assert list_column([], kind).type == pa.list_(kind)
    assert len(list_column([np.empty(0, np.int64)], kind)) == 1


def test_empty_columns_have_the_types_of_full_ones():
    assert (
        box_list_column([]).type
        == box_list_column([np.zeros((1, 4), np.int32)]).type
        == pa.list_(pa.list_(pa.int32(), 4))
    )
    assert vector_column(np.zeros((0, 3), np.float16)).type == pa.list_(pa.float16(), 3)
    assert box_column(np.zeros((0, 4), np.int32)).type == pa.list_(pa.int32(), 4)


def test_a_table_without_any_chunk_is_read_as_empty():
    kinds = {"vector": pa.list_(pa.float16(), 3), "box": pa.list_(pa.int32(), 4)}
    table = pa.table({name: pa.chunked_array([], kind) for name, kind in kinds.items()})
    assert vectors_of(table).shape == (0, 3)
    assert boxes_of(table, "box").shape == (0, 4)


def test_vectors_and_boxes_of_another_memory_order_come_back():
    vectors = np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3))
    boxes = np.arange(16, dtype=np.int32).reshape(4, 4)[::2]
    np.testing.assert_array_equal(vectors_of(pa.table({"vector": vector_column(vectors)})), vectors)
    np.testing.assert_array_equal(boxes_of(pa.table({"box": box_column(boxes)}), "box"), boxes)


def test_contiguous_vectors_are_wrapped_without_a_copy():
    vectors = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert vector_column(vectors).flatten().buffers()[1].address == vectors.ctypes.data


@given(BOX_LISTS)
def test_offsets_are_where_each_list_starts(lists):
    offsets = offsets_of(lists)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(map(len, lists[:end])) for end in range(len(lists) + 1)]


@given(st.lists(st.integers(0, 4), max_size=6))
def test_an_unknown_column_has_a_null_for_every_entry_of_the_lists(lengths):
    lists = [np.zeros(length) for length in lengths]
    column = unknown_column(lists, pa.float64())
    assert column.type == pa.list_(pa.float64())
    assert column.to_pylist() == [[None] * length for length in lengths]
