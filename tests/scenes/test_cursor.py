"""The reader over a scene's draws."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.scenes.cursor import Cursor


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1))
def test_same_key_and_index_give_the_same_sequence(key: int, index: int) -> None:
    first, second = Cursor(key, index), Cursor(key, index)
    assert [first.unit() for _ in range(5)] == [second.unit() for _ in range(5)]
    np.testing.assert_array_equal(first.field(3, 4), second.field(3, 4))
    assert first.unit() == second.unit()


def test_other_keys_and_indices_give_other_sequences() -> None:
    firsts = {Cursor(key, index).unit() for key in range(20) for index in range(20)}
    assert len(firsts) == 400


def test_numbers_are_uniform_and_do_not_repeat_across_blocks_and_fields() -> None:
    c = Cursor(1, 2)
    numbers = np.concatenate([[c.unit() for _ in range(3000)], c.field(3000).astype(float)])
    assert len(np.unique(numbers)) > 5990
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 600).max() < 120


@given(st.integers(0, 1000), st.integers(1, 9))
def test_ranges_are_kept(index: int, limit: int) -> None:
    c = Cursor(5, index)
    assert -2 <= c.between(-2, 3) < 3
    assert c.pick(limit) in range(limit)
    assert c.chance(1.0)
    assert not c.chance(0.0)
