"""Which vectors move between shards: every edge is matched once, where both its ends are, and the fewest RoIs move."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.mining.pair_moves import lightest_cover, plan_calls


def cheapest(edges, left, right):
    """Try every set of vertices."""
    best = None
    for taken in product((False, True), repeat=len(left) + len(right)):
        if all(taken[i] or taken[len(left) + j] for i, j in edges):
            weight = sum(w for w, t in zip([*left, *right], taken, strict=True) if t)
            best = weight if best is None else min(best, weight)
    return best


GRAPHS = st.tuples(
    st.lists(st.integers(1, 9), min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=4)
).flatmap(
    lambda sides: st.tuples(
        st.just(sides),
        st.lists(
            st.tuples(st.integers(0, len(sides[0]) - 1), st.integers(0, len(sides[1]) - 1)), min_size=1, max_size=12
        ),
    )
)


@given(GRAPHS)
def test_a_cover_covers_every_edge_and_weighs_as_little_as_the_best_of_all_sets(graph):
    (left, right), edges = graph
    in_left, in_right = lightest_cover(np.array(edges), np.array(left), np.array(right))
    assert all(in_left[i] or in_right[j] for i, j in edges)
    assert np.array(left)[in_left].sum() + np.array(right)[in_right].sum() == cheapest(edges, left, right)


def planned(edges, shard_of, rois_of):
    edges = np.array(edges, np.int64).reshape(-1, 2)
    shards, rois = (
        np.array([[table[i] for i in edge] for edge in edges.tolist()], np.int64).reshape(-1, 2)
        for table in (shard_of, rois_of)
    )
    return plan_calls(edges, shards, rois)


COLLECTIONS = st.integers(1, 4).flatmap(
    lambda shards: st.tuples(
        st.lists(st.tuples(st.integers(0, shards - 1), st.integers(1, 50)), min_size=2, max_size=12),
        st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40),
    )
)


@given(COLLECTIONS)
def test_every_edge_is_matched_once_where_both_ends_are_or_come(collection):
    images, drawn = collection
    edges = [(i % len(images), j % len(images)) for i, j in drawn if i % len(images) != j % len(images)]
    shard_of, rois_of = [shard for shard, _ in images], [rois for _, rois in images]
    calls = planned(edges, shard_of, rois_of)
    assert sorted(at for call in calls for at in call.edges.tolist()) == list(range(len(edges)))
    for call in calls:
        assert {shard_of[i] for i in call.moved} <= {call.source}
        assert call.source != call.shard
        for at in call.edges:
            assert all(shard_of[i] == call.shard or i in call.moved for i in edges[at])
        assert set(call.moved.tolist()) <= {i for at in call.edges for i in edges[at]}


@given(COLLECTIONS)
def test_never_more_moves_than_if_each_image_went_to_its_neighbours(collection):
    images, drawn = collection
    edges = [(i % len(images), j % len(images)) for i, j in drawn if i % len(images) != j % len(images)]
    shard_of, rois_of = [shard for shard, _ in images], [rois for _, rois in images]
    moved = sum(rois_of[i] for call in planned(edges, shard_of, rois_of) for i in call.moved)
    visits = {(i, shard_of[j]) for i, j in edges if shard_of[i] != shard_of[j]}
    assert moved <= sum(rois_of[i] for i, _ in visits)


def test_nothing_moves_within_a_shard():
    (call,) = planned([(1, 2), (2, 0), (0, 1)], [3, 3, 3], [5, 6, 7])
    assert (call.shard, call.source, call.moved.tolist(), call.edges.tolist()) == (3, -1, [], [0, 1, 2])


def test_one_neighbour_of_many_images_moves_to_them():
    (call,) = planned([(0, 3), (1, 3), (2, 3)], [0, 0, 0, 1], [4, 4, 4, 9])
    assert (call.shard, call.source, call.moved.tolist()) == (0, 1, [3])


def test_an_image_moves_once_for_both_directions():
    (call,) = planned([(0, 1), (1, 0), (0, 2), (2, 0)], [0, 1, 1], [4, 9, 9])
    assert (call.shard, call.source, call.moved.tolist()) == (1, 0, [0])


def test_no_edges_give_no_calls():
    assert planned([], [], []) == []
