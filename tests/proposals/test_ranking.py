"""Ranking: each region's own keyed draw times its level or place, distinct boxes, best first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray import draws
from orl_ray.proposals.ranking import rank
from orl_ray.proposals.selective_search import Regions

ROW = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 4)] * 2, st.integers(1, 9), st.integers(1, 30))
ROWS = st.lists(ROW, min_size=1, max_size=40)


def regions_of(rows):
    table = np.array(rows, np.int64).reshape(-1, 6)
    return Regions(table[:, :4].astype(np.int32), table[:, 4].astype(np.int16), table[:, 5].astype(np.int32))


def grid(count, level=1):
    """Return ``count`` regions with distinct boxes, all of one level."""
    return regions_of([(i // 30, i % 30, 5 + i % 7, 5 + i % 11, level, count - i) for i in range(count)])


@settings(deadline=None)
@given(ROWS, st.integers(0, 5), st.integers(-(2**63), 2**63 - 1), st.sampled_from(["opencv", "paper"]))
def test_each_box_comes_once_at_its_best_region(rows, seed, image_id, order):
    regions = regions_of(rows)
    draw = draws.uniform(draws.stream(seed, "proposals", image_id), np.arange(len(rows)), 1)[:, 0]
    best = {}
    for number, (*box, level, place) in enumerate(rows):
        score = draw[number] * (level if order == "opencv" else place)
        best[tuple(box)] = min(best.get(tuple(box), (np.inf, 0, 0)), (score, number, level))
    wanted = sorted(best.items(), key=lambda item: item[1])
    ranked = rank(regions, seed, image_id, order)
    assert ranked.boxes.tolist() == [list(box) for box, _ in wanted]
    assert ranked.levels.tolist() == [level for _, (_, _, level) in wanted]
    assert (ranked.boxes.dtype, ranked.levels.dtype) == (np.int32, np.int16)


def test_another_seed_or_image_gives_another_order():
    orders = [rank(grid(100), seed, image).boxes.tolist() for seed, image in [(0, 1), (1, 1), (0, 2), (0, -1)]]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))


def test_regions_of_one_level_are_equally_likely_to_come_first():
    regions = grid(5)
    counts = {tuple(row): 0 for row in regions.boxes.tolist()}
    for image in range(2000):
        counts[tuple(rank(regions, 0, image).boxes[0].tolist())] += 1
    # Standard deviation 18 about the mean of 400.
    assert all(abs(count - 400) < 90 for count in counts.values())


def test_low_levels_come_first_mostly_and_in_the_papers_order_late_merges():
    regions = regions_of([(0, 0, 5, 5, 1, 9), (1, 1, 6, 6, 9, 1)])
    firsts = {order: [rank(regions, 0, i, order).boxes[0, 0] for i in range(500)] for order in ("opencv", "paper")}
    # Level 9 beats level 1 with probability 1 / 18.
    assert 0.02 < np.mean(firsts["opencv"]) < 0.1
    assert 0.9 < np.mean(firsts["paper"]) < 0.98


def test_no_regions_rank_to_no_boxes():
    ranked = rank(regions_of([]), 0, 0)
    assert ranked.boxes.shape == (0, 4)
    assert ranked.levels.shape == (0,)


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        rank(Regions(np.zeros((3, 5), np.int32), np.ones(3, np.int16), np.ones(3, np.int32)), 0, 0)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="'opencv' or 'paper'"):
        rank(grid(3), 0, 0, "random")
