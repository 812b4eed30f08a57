"""RoI pairs: equal to a full sort under every pairing, with prefixes for smaller counts."""

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.mining import matching
from orl_ray.mining.matching import match, match_block, pair_count
from orl_ray.settings import known_settings


def unit(values):
    """Normalise rows and round them to float16."""
    values = np.asarray(values, np.float64)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def coarse(seed, rows, length=3):
    """Return unit vectors drawn from a handful, so that equal similarities are frequent."""
    rng = np.random.default_rng(seed)
    return unit(rng.choice([-1, 1], (rows, length)) * rng.choice([1, 2], (rows, 1)))


def literal(query, neighbor, count):
    """Sort every entry of the similarity matrix by falling value, then position."""
    matrix = query.astype(np.float64) @ neighbor.astype(np.float64).T
    entries = [(-matrix[i, j], i, j) for i in range(len(query)) for j in range(len(neighbor))]
    return [(i, j, -value) for value, i, j in sorted(entries)[:count]]


def literal_mutual(query, neighbor, count):
    """Keep of all entries, in order, those that come first both among their row's and among their column's."""
    entries = literal(query, neighbor, len(query) * len(neighbor))
    first_of_row, first_of_column = {}, {}
    for entry in entries:
        first_of_row.setdefault(entry[0], entry)
        first_of_column.setdefault(entry[1], entry)
    return [e for e in entries if first_of_row[e[0]] is e and first_of_column[e[1]] is e][:count]


def literal_one_to_one(query, neighbor, count):
    """Go through all entries in order and take those of which neither end was taken."""
    taken = []
    for entry in literal(query, neighbor, len(query) * len(neighbor)):
        if all(entry[0] != i and entry[1] != j for i, j, _ in taken):
            taken.append(entry)
    return taken[:count]


LITERAL = {"top": literal, "mutual": literal_mutual, "one_to_one": literal_one_to_one}
PAIRINGS = tuple(LITERAL)


def crowded(seed, rows, length=2048, spread=2**-11):
    """Return unit vectors so close to each other that single precision cannot order their similarities."""
    rng = np.random.default_rng(seed)
    return unit(1 + spread * rng.integers(-1, 2, (rows, length)))


def rows_of(pairs):
    """Return pairs as a list of (query, neighbour, similarity)."""
    return list(zip(*(column.tolist() for column in pairs), strict=True))


VECTORS = st.builds(coarse, st.integers(0, 999), st.integers(1, 8)) | st.builds(
    lambda seed, rows: unit(np.random.default_rng(seed).normal(size=(rows, 3))), st.integers(0, 999), st.integers(1, 8)
)


@pytest.mark.parametrize("pairing", PAIRINGS)
@settings(deadline=None)
@given(VECTORS, VECTORS, st.integers(1, 80))
def test_pairs_equal_a_full_sort(pairing, query, neighbor, count):
    pairs = match(query, neighbor, count, pairing)
    assert rows_of(pairs) == LITERAL[pairing](query, neighbor, count)
    assert [column.dtype for column in pairs] == [np.int32, np.int32, np.float64]


@pytest.mark.parametrize("pairing", PAIRINGS)
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 12), st.integers(1, 12), st.integers(1, 80))
def test_pairs_that_single_precision_cannot_order_equal_a_full_sort(pairing, seed, rows, others, count):
    query, neighbor = crowded(seed, rows), crowded(seed + 1, others)
    assert rows_of(match(query, neighbor, count, pairing)) == LITERAL[pairing](query, neighbor, count)


def test_single_precision_does_misorder_what_the_test_above_takes():
    query, neighbor = crowded(0, 12), crowded(1, 12)
    rough = (query.astype(np.float32) @ neighbor.astype(np.float32).T).ravel()
    exact = (query.astype(np.float64) @ neighbor.astype(np.float64).T).ravel()
    assert (np.argsort(-rough, kind="stable") != np.argsort(-exact, kind="stable")).any()


@pytest.mark.parametrize("pairing", PAIRINGS)
@settings(deadline=None)
@given(VECTORS, VECTORS, st.integers(1, 40), st.integers(0, 40))
def test_a_smaller_count_is_a_prefix(pairing, query, neighbor, count, more):
    fewer, longer = (rows_of(match(query, neighbor, n, pairing)) for n in (count, count + more))
    assert fewer == longer[:count]


@pytest.mark.parametrize("pairing", PAIRINGS)
@settings(deadline=None)
@given(VECTORS, VECTORS)
def test_every_neighbour_with_rois_has_a_pair(pairing, query, neighbor):
    assert match(query, neighbor, 1, pairing).similarities == literal(query, neighbor, 1)[0][2]


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("rows_at_once", [1, 7, 4096])
@settings(deadline=None)
@given(VECTORS, st.lists(VECTORS, min_size=1, max_size=5), st.integers(1, 20))
def test_a_block_gives_what_each_neighbour_gives_alone(pairing, rows_at_once, query, neighbors, count):
    offsets = np.concatenate([[0], np.cumsum([len(vectors) for vectors in neighbors])])
    with mock.patch.object(matching, "_ROWS_AT_ONCE", rows_at_once):
        block = match_block(query, np.concatenate(neighbors), offsets, count, pairing)
    alone = [rows_of(match(query, vectors, count, pairing)) for vectors in neighbors]
    assert [rows_of(pairs) for pairs in block] == alone


@pytest.mark.parametrize("share", [0, 1])
def test_candidates_scored_one_by_one_or_all_at_once_give_the_same_bits(share):
    query, neighbors = crowded(0, 9), crowded(1, 40)
    with mock.patch.object(matching, "_DENSE_SHARE", share), mock.patch.object(matching, "_SCORED_AT_ONCE", 50):
        assert rows_of(match(query, neighbors, 30)) == literal(query, neighbors, 30)


def test_real_sizes_give_the_same_bits_alone_and_in_a_block():
    rng = np.random.default_rng(0)
    query, neighbors = unit(rng.random((45, 2048))), unit(rng.random((430, 2048)))
    offsets = np.array([0, 43, 100, 180, 300, 430])
    for index, pairs in enumerate(match_block(query, neighbors, offsets, 9)):
        alone = match(query, neighbors[offsets[index] : offsets[index + 1]], 9)
        assert rows_of(pairs) == rows_of(alone)
        assert len(pairs.similarities) == 9


def test_a_roi_may_stand_in_several_pairs():
    query, neighbor = unit([[1, 0], [0, 1]]), unit([[1, 0], [1, 0.1], [1, 0.2]])
    assert match(query, neighbor, 3).query_index.tolist() == [0, 0, 0]


def test_equal_similarities_are_ordered_by_query_then_neighbour():
    same = unit(np.ones((3, 4)))
    pairs = match(same, same[:2], 5)
    assert pairs.query_index.tolist() == [0, 0, 1, 1, 2]
    assert pairs.neighbor_index.tolist() == [0, 1, 0, 1, 0]


def test_a_neighbour_without_rois_has_no_pairs():
    vectors = unit(np.eye(2))
    for pairing, pairs in (("top", 3), ("mutual", 2), ("one_to_one", 2)):
        empty, full = match_block(vectors, vectors, np.array([0, 0, 2]), 3, pairing)
        assert rows_of(empty) == []
        assert len(full.similarities) == pairs


def test_no_neighbours_give_no_pairs():
    assert match_block(unit(np.eye(2)), np.zeros((0, 2), np.float16), np.array([0]), 3) == []


@pytest.mark.parametrize(
    ("offsets", "count", "length", "message"),
    [
        ([0, 3], 0, 4, "at least one pair"),
        ([0, 2], 1, 4, "offsets must rise"),
        ([1, 3], 1, 4, "offsets must rise"),
        ([0, 2, 1, 3], 1, 4, "offsets must rise"),
        ([], 1, 4, "offsets must rise"),
        ([0, 3], 1, 5, "differ in length"),
    ],
)
def test_bad_requests_are_refused(offsets, count, length, message):
    with pytest.raises(ValueError, match=message):
        match_block(unit(np.eye(length)), unit(np.eye(4)[:3]), np.array(offsets), count)


def test_an_unknown_pairing_is_refused():
    with pytest.raises(ValueError, match="unknown pairing 'best'; there are top, mutual, one_to_one"):
        match(unit(np.eye(2)), unit(np.eye(2)), 1, "best")


def test_vectors_that_are_not_float16_are_refused():
    with pytest.raises(ValueError, match="must be float16, not float32"):
        match(unit(np.eye(2)), np.eye(2, dtype=np.float32), 1)


def test_the_setting_offers_every_pairing():
    assert known_settings()["mining.pairing"].metadata["choices"] == PAIRINGS


@pytest.mark.parametrize(
    ("rois", "ratio", "count"),
    [
        (30, 0.1, 3),
        (10, 0.7, 7),
        (100, 0.29, 29),
        (100, 0.57, 57),
        (3, 1 / 3, 1),
        (19, 0.1, 1),
        (20, 0.1, 2),
        (1, 0.1, 1),
        (5, 0.0, 1),
        (7, 1.0, 7),
        (7, 2.5, 17),
        (10, 1e-05, 1),
    ],
)
def test_pair_count_is_the_floor_of_the_decimal_product(rois, ratio, count):
    assert pair_count(rois, ratio) == count


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(0, 10_000))
def test_pair_count_equals_integer_arithmetic(rois, thousandths):
    assert pair_count(rois, thousandths / 1000) == max(1, thousandths * rois // 1000)
    assert pair_count(rois, np.float64(thousandths / 1000)) == max(1, thousandths * rois // 1000)


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(0, 100), st.floats(0, 100))
def test_pair_count_never_falls_with_the_ratio(rois, one, other):
    assert pair_count(rois, min(one, other)) <= pair_count(rois, max(one, other))


def test_pair_count_equals_the_reference_at_the_published_ratio():
    assert all(pair_count(rois, 0.1) == max(1, int(0.1 * rois)) for rois in range(1, 101))


def test_pair_count_differs_from_floating_point_where_that_is_wrong():
    assert int(0.29 * 100) == 28
    assert Fraction("0.29") * 100 == 29


@pytest.mark.parametrize(("rois", "ratio"), [(0, 0.1), (-1, 0.1), (5, -0.1), (5, float("nan")), (5, float("inf"))])
def test_bad_counts_are_refused(rois, ratio):
    with pytest.raises(ValueError):
        pair_count(rois, ratio)
