"""Float16 to float32: every finite number, of any shape and layout."""

import numpy as np
import pytest

from orl_ray.mining import half_floats
from orl_ray.mining.half_floats import as_single

EVERY = np.arange(2**16, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)]


def test_every_finite_number_keeps_its_value_and_its_sign():
    single = as_single(FINITE)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single.view(np.uint32), FINITE.astype(np.float32).view(np.uint32))


def test_what_is_not_finite_becomes_too_large_for_a_unit_vector():
    assert (np.abs(as_single(EVERY[~np.isfinite(EVERY)])) >= 2**16).all()


def test_shapes_and_layouts_are_kept_and_the_input_is_left_alone():
    rows = FINITE[:1200].reshape(30, 40)
    before = rows.copy()
    for view in (rows, rows[::2], rows[:, 5:9], rows.T, rows[:0]):
        np.testing.assert_array_equal(as_single(view), view.astype(np.float32))
    np.testing.assert_array_equal(rows, before)


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="must be float16, not float32"):
        as_single(np.ones(3, np.float32))


def test_a_process_that_flushes_subnormals_is_told(monkeypatch):
    monkeypatch.setattr(half_floats, "_SUBNORMAL", np.zeros(1, np.float32))
    with pytest.raises(FloatingPointError, match="flushes subnormal numbers"):
        as_single(FINITE)
