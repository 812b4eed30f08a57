"""What training takes of the stored pairs: prefixes and bounds, against a literal reading, row by row."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray import schema
from orl_ray.columns import box_list_column, list_column, unknown_column
from orl_ray.config import Mining
from orl_ray.mining.matching import pair_count
from orl_ray.mining.pair_selection import Coverage, coverage_of, select_pairs, selected_boxes


def correspondences(rows, known=True):
    """Make a table of (image id, rank, rois, similarities); boxes tell the place of a pair."""
    similarities = [np.array(row[3], np.float64) for row in rows]
    boxes = [np.array([[place, 0, 1, 1] for place in range(len(row[3]))], np.int32).reshape(-1, 4) for row in rows]
    columns = [
        pa.array([row[0] for row in rows], pa.int64()),
        pa.array([row[1] + 100 for row in rows], pa.int64()),
        pa.array([row[1] for row in rows], pa.int32()),
        pa.array([row[2] for row in rows], pa.int32()),
        box_list_column(boxes),
        box_list_column(boxes),
        (list_column if known else unknown_column)(similarities, pa.float64()),
    ]
    return pa.table(columns, schema=schema.CORRESPONDENCES)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 5),
        st.integers(1, 30),
        st.lists(st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0]), max_size=6).map(lambda v: sorted(v, reverse=True)),
    ),
    max_size=8,
)
BOUNDS = st.sampled_from([-2.0, 0.0, 0.25, 0.5, 2.0])


@given(ROWS, st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.2]), BOUNDS, BOUNDS)
def test_a_pair_is_taken_if_k_the_ratio_and_both_bounds_allow_it(rows, k, ratio, floor, ceiling):
    mining = replace(Mining(), k=k, pair_ratio=ratio, min_similarity=floor, max_similarity=ceiling)
    wanted = [
        [
            place
            for place, similarity in enumerate(similarities)
            if rank < k and place < pair_count(rois, ratio) and floor <= similarity <= ceiling
        ]
        for _, rank, rois, similarities in rows
    ]
    table = correspondences(rows)
    assert [places.tolist() for places in select_pairs(table, mining)] == wanted
    boxes = selected_boxes(table, mining)
    assert [[box[0] for box in own.tolist()] for own, _ in boxes] == wanted
    assert [[box[0] for box in other.tolist()] for _, other in boxes] == wanted
    with_pairs = [row[0] for row, places in zip(rows, wanted, strict=True) if places]
    assert coverage_of(table, mining) == Coverage(
        len(set(with_pairs)), len(with_pairs), sum(row[1] < k for row in rows), sum(map(len, wanted))
    )


@given(ROWS.filter(len), st.data())
def test_a_slice_of_a_table_selects_the_same(rows, data):
    start = data.draw(st.integers(0, len(rows) - 1))
    mining = replace(Mining(), min_similarity=0.25)
    whole = [places.tolist() for places in select_pairs(correspondences(rows), mining)]
    assert [places.tolist() for places in select_pairs(correspondences(rows).slice(start), mining)] == whole[start:]


def test_similarities_a_little_above_one_are_taken_unless_a_ceiling_is_set():
    table = correspondences([(0, 0, 20, [1.0004, 0.9])])
    assert [len(p) for p in select_pairs(table, Mining())] == [2]
    assert [p.tolist() for p in select_pairs(table, replace(Mining(), max_similarity=1.0))] == [[1]]


@pytest.mark.parametrize("bound", [{"min_similarity": 0.1}, {"max_similarity": 0.9}])
def test_bounds_on_imported_pairs_without_similarities_are_refused(bound):
    table = correspondences([(0, 0, 20, [0.5, 0.4])], known=False)
    assert [len(places) for places in select_pairs(table, Mining())] == [2]
    with pytest.raises(ValueError, match="imported without similarities"):
        select_pairs(table, replace(Mining(), **bound))
