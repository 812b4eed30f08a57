"""A shard's vectors, gathered part by part: in the order of ids, exactly, within the memory that was promised."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.mining.shard_vectors import shard_vectors


def unit(count, length, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, length))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), max_size=6), st.booleans(), st.booleans())
def test_parts_of_any_size_end_in_the_order_of_ids(seed, sizes, narrow, mapped):
    rng, count = np.random.default_rng(seed), sum(sizes)
    ids, groups, vectors = rng.permutation(3 * count)[:count] - count, rng.integers(0, 4, count), unit(count, 5, seed)
    parts = np.split(vectors, np.cumsum(sizes)[:-1]) if sizes else []
    shard = shard_vectors(ids, parts, 5, groups, narrow=narrow, mapped=mapped)
    order = np.argsort(ids)
    np.testing.assert_array_equal(shard.ids, ids[order])
    np.testing.assert_array_equal(shard.groups, groups[order])
    np.testing.assert_array_equal(shard.vectors.astype(np.float16), vectors[order])
    assert shard.vectors.dtype == (np.float16 if narrow else np.float32)
    assert isinstance(shard.vectors, np.memmap) == (mapped and count > 0)


def test_float32_holds_every_float16_exactly():
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)]
    np.testing.assert_array_equal(numbers.astype(np.float32).astype(np.float64), numbers.astype(np.float64))


def test_parts_are_never_held_together():
    count, length, part = 40_000, 64, 500

    def parts():
        for start in range(0, count, part):
            yield unit(part, length, start)

    ids = np.random.default_rng(0).permutation(count)
    tracemalloc.start()  # numpy reports its arrays to it
    try:
        shard = shard_vectors(ids, parts(), length)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = count * length * 4
    assert shard.vectors.nbytes == size
    assert held < 1.1 * size
    assert peak < 1.3 * size  # at 64 numbers a vector: 40 bytes a row weigh more than at 256


def test_groups_that_are_the_ids_are_held_once():
    shard = shard_vectors(np.array([3, 1]), [unit(2, 4)], 4)
    assert shard.groups is shard.ids


@pytest.mark.parametrize(
    ("ids", "parts", "groups", "message"),
    [
        ([1, 2], [unit(1, 4)], None, "each vector needs one id"),
        ([1, 2], [unit(2, 4), unit(1, 4)], None, "each vector needs one id"),
        ([1, 2], [unit(2, 4)], [1], "each vector needs one id"),
        ([7, 7], [unit(2, 4)], None, "image id 7 is in the index twice"),
        ([1, 2], [unit(2, 3)], None, "must be of length 4, not 3"),
        ([1, 2], [2 * unit(2, 4)], None, "unit vectors"),
        ([1, 2], [unit(2, 4).astype(np.float32)], None, "float16"),
    ],
)
def test_what_does_not_fit_is_refused(ids, parts, groups, message):
    with pytest.raises(ValueError, match=message):
        shard_vectors(np.array(ids), parts, 4, None if groups is None else np.array(groups))
