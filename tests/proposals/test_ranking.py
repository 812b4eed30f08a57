"""Ranking: each box's own keyed draw, independent of the other boxes and of their order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.proposals.ranking import rank

BOX = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50), st.integers(1, 50))
BOXES = st.lists(BOX, min_size=1, max_size=40, unique=True).map(lambda rows: np.array(rows, np.int32))


def grid(count):
    """Return ``count`` distinct boxes in canonical order."""
    index = np.arange(count, dtype=np.int32)
    return np.stack([index // 30, index % 30, 5 + index % 7, 5 + index % 11], axis=1).astype(np.int32)


@settings(deadline=None)
@given(BOXES, st.integers(0, 5), st.integers(-(2**63), 2**63 - 1))
def test_ranking_only_reorders(boxes, seed, image_id):
    ranked = rank(boxes, seed, image_id)
    assert ranked.dtype == np.int32
    assert sorted(ranked.tolist()) == sorted(boxes.tolist())


@settings(deadline=None)
@given(BOXES, st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_order_of_the_input(boxes, random):
    shuffled = boxes.tolist()
    random.shuffle(shuffled)
    np.testing.assert_array_equal(rank(np.array(shuffled, np.int32), 1, 9), rank(boxes, 1, 9))


@settings(deadline=None)
@given(BOXES, st.data())
def test_order_of_some_boxes_does_not_depend_on_the_others(boxes, data):
    chosen = data.draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes)))
    subset = boxes[np.array(chosen)]
    kept = set(map(tuple, subset.tolist()))
    expected = [row for row in rank(boxes, 1, 9).tolist() if tuple(row) in kept]
    assert rank(subset, 1, 9).tolist() == expected


def test_another_seed_or_image_gives_another_order():
    boxes = grid(100)
    orders = [rank(boxes, seed, image).tolist() for seed, image in [(0, 1), (1, 1), (0, 2), (0, -1)]]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))


def test_each_of_the_four_coordinates_matters():
    base = np.array([[7, 11, 13, 17]], np.int32)
    boxes = np.concatenate([base, base + np.eye(4, dtype=np.int32)])
    firsts = {tuple(rank(boxes, 0, image)[0].tolist()) for image in range(80)}
    assert len(firsts) == 5


def test_every_box_is_equally_likely_to_come_first():
    boxes = grid(5)
    counts = {tuple(row): 0 for row in boxes.tolist()}
    for image in range(2000):
        counts[tuple(rank(boxes, 0, image)[0].tolist())] += 1
    # Standard deviation 18 about the mean of 400.
    assert all(abs(count - 400) < 90 for count in counts.values())


def test_swapped_coordinates_draw_apart():
    boxes = np.array([[3, 5, 20, 40], [5, 3, 20, 40], [3, 5, 40, 20], [20, 40, 3, 5]], np.int32)
    assert len({tuple(map(tuple, rank(boxes, 0, image).tolist())) for image in range(300)}) == 24


def test_coordinates_above_16_bits_are_ranked():
    boxes = np.array([[70_000, 0, 5, 5], [70_000 - 65_536, 0, 5, 5], [4, 1, 5, 5]], np.int32)
    assert sorted(rank(boxes, 0, 0).tolist()) == sorted(boxes.tolist())
    assert len({tuple(rank(boxes, 0, image)[0].tolist()) for image in range(40)}) == 3


def test_no_boxes_rank_to_no_boxes():
    assert rank(np.zeros((0, 4), np.int32), 0, 0).shape == (0, 4)


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        rank(np.zeros((3, 5), np.int32), 0, 0)
