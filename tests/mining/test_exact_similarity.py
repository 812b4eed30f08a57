"""Exact similarities: equal to rational arithmetic, and to themselves in any order of summation."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.mining.exact_similarity import similarities, widen


def unit(values):
    """Normalise rows and round them to float16."""
    values = np.asarray(values, np.float64)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def rational(left, right):
    """Return the dot product of two vectors as a fraction."""
    return sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left, right, strict=True))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1.0, 1e-3, 1e-6]))
def test_similarities_equal_rational_arithmetic(seed, length, spread):
    # A small spread with one large entry makes subnormal float16 numbers.
    rng = np.random.default_rng(seed)
    values = rng.normal(0, spread, (4, length))
    values[:, 0] += 1
    vectors = unit(values)
    found = similarities(widen(vectors[:2], "left"), widen(vectors[2:], "right"))
    for i in range(2):
        for j in range(2):
            assert Fraction(found[i, j]) == rational(vectors[i], vectors[2 + j])


@pytest.mark.parametrize("length", [3, 256, 2048])
def test_no_order_of_summation_changes_a_bit(length):
    rng = np.random.default_rng(length)
    vectors = unit(rng.normal(size=(20, length)) * rng.exponential(size=(20, length)) ** 3)
    wide = widen(vectors, "vectors")
    expected = similarities(wide, wide)
    for _ in range(5):
        order = rng.permutation(length)
        np.testing.assert_array_equal(similarities(wide[:, order], wide[:, order]), expected)
    sums = np.array([[sum((a * b).tolist()) for b in wide] for a in wide])
    np.testing.assert_array_equal(sums, expected)
    rows = np.concatenate([similarities(wide[i : i + 1], wide) for i in range(len(wide))])
    np.testing.assert_array_equal(rows, expected)


def test_a_similarity_of_zero_has_no_sign():
    left, right = np.array([[-1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, -1.0]])
    assert not np.signbit(similarities(left, right)).any()


def test_narrow_vectors_are_multiplied_in_float64():
    vectors = unit(np.random.default_rng(0).normal(size=(5, 300)))
    np.testing.assert_array_equal(
        similarities(vectors, vectors), similarities(widen(vectors, "a"), widen(vectors, "b"))
    )


def test_widen_keeps_every_value():
    vectors = unit(np.random.default_rng(0).normal(size=(5, 30)))
    wide = widen(vectors, "vectors")
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide.astype(np.float16), vectors)


@pytest.mark.parametrize("length", [1, 2, 256, 2048, 8192])
def test_every_normalised_vector_is_accepted(length):
    rng = np.random.default_rng(length)
    assert widen(unit(rng.normal(size=(50, length))), "vectors").shape == (50, length)
    assert widen(unit(np.ones((1, length))), "vectors").shape == (1, length)


@pytest.mark.parametrize("row", [[0, 0], [1, 1], [0.5, 0], [np.nan, 1], [np.inf, 0]])
def test_a_vector_that_is_not_of_norm_one_is_refused_by_row(row):
    with pytest.raises(ValueError, match="query RoIs must be unit vectors: row 1"):
        widen(np.array([[1, 0], row], np.float16), "query RoIs")


@pytest.mark.parametrize(
    "vectors", [np.eye(2, dtype=np.float32), np.ones(1, np.float16), np.ones((1, 1, 1), np.float16)]
)
def test_another_type_or_shape_is_refused(vectors):
    with pytest.raises(ValueError, match=r"\(n, D\) float16"):
        widen(vectors, "vectors")
