"""Keyed draws: uniform, independent across ids, counters and streams, and the same whatever the batch."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray import draws

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30).map(lambda ids: np.array(ids, np.int64))
KEYS = st.integers(0, 2**64 - 1)
PINNED = [
    [0.19334173333452298, 0.03647697702082875],
    [0.1416865552153599, 0.4674805028545387],
    [0.7077890431090404, 0.5304963325944347],
]


def correlation(a, b):
    """Return Pearson's correlation; for n independent draws its standard deviation is 1 / sqrt(n)."""
    return np.corrcoef(a, b)[0, 1]


def chi_squared(counts):
    """Return the chi-squared statistic against equal counts, standardised to mean 0 and deviation 1."""
    counts = np.asarray(counts, np.float64).ravel()
    expected, freedom = counts.mean(), counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


class TestStream:
    def test_is_a_64_bit_number(self):
        keys = [draws.stream(seed, "a") for seed in range(200)]
        assert all(0 <= key < 2**64 for key in keys)
        assert max(keys) > 2**62

    def test_keys_differ_by_seed_name_order_nesting_and_type(self):
        names = [
            (),
            ("a",),
            ("b",),
            ("a", "b"),
            ("b", "a"),
            ("ab",),
            ("a", ""),
            (1,),
            ("1",),
            (1, 2),
            (12,),
            ("a\x1fb",),
        ]
        keys = {draws.stream(seed, *name) for seed in (0, 1) for name in names}
        assert len(keys) == 2 * len(names)

    def test_a_name_does_not_run_into_the_seed(self):
        assert draws.stream(1, 2) != draws.stream(12)

    def test_is_the_same_in_another_process(self):
        # A key built on hash() would change with the interpreter's hash seed.
        code = "from orl_ray import draws; print(draws.stream(7, 'object_level', 3, 'intra'))"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(run.stdout) == draws.stream(7, "object_level", 3, "intra")


class TestUniform:
    @settings(deadline=None)
    @given(KEYS, IDS, st.integers(0, 8))
    def test_draws_lie_in_the_half_open_unit_interval(self, key, ids, count):
        values = draws.uniform(key, ids, count)
        assert values.shape == (len(ids), count)
        assert values.dtype == np.float64
        assert ((values >= 0) & (values < 1)).all()

    @settings(deadline=None)
    @given(KEYS, IDS, st.integers(1, 6))
    def test_a_batch_gives_what_each_id_gives_alone(self, key, ids, count):
        alone = np.concatenate([draws.uniform(key, ids[i : i + 1], count) for i in range(len(ids))])
        np.testing.assert_array_equal(draws.uniform(key, ids, count), alone)

    @settings(deadline=None)
    @given(KEYS, IDS, st.integers(1, 6), st.integers(1, 6))
    def test_fewer_draws_are_a_prefix_of_more(self, key, ids, fewer, more):
        longer = draws.uniform(key, ids, fewer + more)
        np.testing.assert_array_equal(draws.uniform(key, ids, fewer), longer[:, :fewer])

    def test_values_are_pinned(self):
        # Stored artifacts depend on these bits: a change of the generator must be noticed.
        values = draws.uniform(draws.stream(0, "proposals"), np.array([0, 1, -1]), 2)
        np.testing.assert_array_equal(values, np.array(PINNED))

    @pytest.mark.parametrize("ids", [np.arange(50_000), np.arange(50_000) << 32, -np.arange(50_000) * 1_000_003])
    def test_draws_are_uniform_over_structured_ids(self, ids):
        values = draws.uniform(draws.stream(0, "test"), ids.astype(np.int64), 1)[:, 0]
        assert abs(chi_squared(np.histogram(values, 100, (0, 1))[0])) < 5
        assert abs(chi_squared(np.histogram(values * 1000 % 1, 100, (0, 1))[0])) < 5

    def test_draws_of_one_id_are_uniform_over_counters(self):
        values = draws.uniform(draws.stream(0, "test"), np.array([42]), 50_000)[0]
        assert abs(chi_squared(np.histogram(values, 100, (0, 1))[0])) < 5
        assert abs(correlation(values[:-1], values[1:])) < 5 / np.sqrt(50_000)

    def test_counters_ids_and_streams_are_independent_in_pairs(self):
        ids = np.arange(20_000)
        first, second = (draws.uniform(draws.stream(0, name), ids, 2) for name in ("view", "patch"))
        pairs = [
            (first[:, 0], first[:, 1]),
            (first[:-1, 0], first[1:, 0]),
            (first[:-1, 0], first[1:, 1]),
            (first[:, 0], second[:, 0]),
            (first[:, 0], draws.uniform(draws.stream(1, "view"), ids, 1)[:, 0]),
        ]
        for a, b in pairs:
            assert abs(correlation(a, b)) < 5 / np.sqrt(len(a))
            assert abs(chi_squared(np.histogram2d(a, b, 10, ((0, 1), (0, 1)))[0])) < 5

    def test_streams_of_neighbouring_seeds_share_no_draw(self):
        values = np.concatenate([draws.uniform(draws.stream(seed), np.arange(1000), 2).ravel() for seed in range(10)])
        assert len(np.unique(values)) == len(values)

    def test_no_ids_give_no_rows(self):
        assert draws.uniform(1, np.zeros(0, np.int64), 3).shape == (0, 3)


class TestIntegers:
    @settings(deadline=None)
    @given(KEYS, IDS, st.integers(1, 2**53))
    def test_draws_lie_below_the_limit(self, key, ids, limit):
        values = draws.integers(key, ids, limit)
        assert values.dtype == np.int64
        assert ((values >= 0) & (values < limit)).all()

    @settings(deadline=None)
    @given(KEYS, IDS, st.data())
    def test_each_id_has_its_own_limit(self, key, ids, data):
        limits = np.array(data.draw(st.lists(st.integers(1, 9), min_size=len(ids), max_size=len(ids))))
        alone = [draws.integers(key, ids[i : i + 1], int(limits[i]))[0] for i in range(len(ids))]
        assert draws.integers(key, ids, limits).tolist() == alone

    def test_a_limit_of_one_always_gives_zero(self):
        assert not draws.integers(5, np.arange(100), 1).any()

    @pytest.mark.parametrize("limit", [2, 3, 10, 97])
    def test_integers_are_uniform(self, limit):
        counts = np.bincount(draws.integers(draws.stream(3, "test"), np.arange(40_000), limit), minlength=limit)
        assert len(counts) == limit
        assert abs(chi_squared(counts)) < 5


class TestPermute:
    @pytest.mark.parametrize("key", [0, 1, draws.stream(0, "shuffle")])
    def test_is_a_bijection_for_every_size_up_to_300(self, key):
        for size in range(1, 301):
            assert sorted(draws.permute(key, np.arange(size), size).tolist()) == list(range(size))

    @settings(deadline=None)
    @given(KEYS, st.integers(1, 5000))
    def test_is_a_bijection_for_any_key_and_size(self, key, size):
        np.testing.assert_array_equal(np.sort(draws.permute(key, np.arange(size), size)), np.arange(size))

    @settings(deadline=None)
    @given(KEYS, st.integers(1, 2**40), st.data())
    def test_maps_each_position_by_itself_into_the_range(self, key, size, data):
        positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=10, unique=True)))
        mapped = draws.permute(key, positions, size)
        assert mapped.dtype == np.int64
        assert ((mapped >= 0) & (mapped < size)).all()
        assert len(set(mapped.tolist())) == len(positions)
        assert mapped.tolist() == [draws.permute(key, positions[i : i + 1], size)[0] for i in range(len(positions))]

    def test_leaves_its_input_alone(self):
        positions = np.arange(10)
        draws.permute(3, positions, 10)
        np.testing.assert_array_equal(positions, np.arange(10))

    def test_keys_give_unrelated_orders(self):
        orders = [draws.permute(draws.stream(0, epoch), np.arange(1000), 1000) for epoch in range(4)]
        for i in range(4):
            assert abs(correlation(orders[i], np.arange(1000))) < 5 / np.sqrt(1000)
            for j in range(i):
                assert abs(correlation(orders[i], orders[j])) < 5 / np.sqrt(1000)
                assert (orders[i] == orders[j]).sum() < 12

    def test_every_order_of_four_is_about_equally_likely(self):
        counts = {}
        for epoch in range(4800):
            order = tuple(draws.permute(draws.stream(0, epoch), np.arange(4), 4).tolist())
            counts[order] = counts.get(order, 0) + 1
        assert len(counts) == 24
        assert abs(chi_squared(list(counts.values()))) < 5

    @pytest.mark.parametrize(("positions", "size"), [([-1], 5), ([5], 5), ([0, 7], 3), ([0], 0)])
    def test_positions_outside_the_range_are_refused(self, positions, size):
        with pytest.raises(ValueError, match="positions must lie in"):
            draws.permute(1, np.array(positions), size)

    def test_no_positions_give_none(self):
        assert draws.permute(1, np.zeros(0, np.int64), 5).shape == (0,)
