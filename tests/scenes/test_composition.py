"""Shapes, textures and the laying of one object over a picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.scenes import textures
from orl_ray.scenes.composition import Sprite, lay, paint
from orl_ray.scenes.cursor import Cursor
from orl_ray.scenes.shapes import CLASSES, SHAPES, Paint


def sprite(name: str, size: float, index: int = 0) -> Sprite:
    return paint(Cursor(1, index), SHAPES[name](Cursor(2, index)), size, 0.7)


def test_class_names_are_distinct() -> None:
    assert len(CLASSES) == len(set(CLASSES)) >= 12


@pytest.mark.parametrize("name", CLASSES)
def test_a_shape_varies_and_has_a_textured_body_and_contrast(name: str) -> None:
    variants = [SHAPES[name](Cursor(3, index)) for index in range(6)]
    assert len({np.concatenate([part.points for part in parts]).tobytes() for parts in variants}) == 6
    for parts in variants:
        assert {Paint.BODY} < {part.paint for part in parts}
        assert all(np.isfinite(part.points).all() and len(part.points) >= 2 for part in parts)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("size", [15, 40.5, 120])
def test_longer_side_is_the_size_asked_for(name: str, size: float) -> None:
    alpha = sprite(name, size).alpha
    rows, columns = np.nonzero(alpha > 0.05)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    assert size * 0.9 - 2 <= extent <= size + 3
    assert alpha.min() >= 0
    assert alpha.max() == pytest.approx(1)


@pytest.mark.parametrize("name", CLASSES)
def test_area_grows_with_the_square_of_the_size(name: str) -> None:
    small, large = sprite(name, 40).alpha.sum(), sprite(name, 160).alpha.sum()
    assert large / small == pytest.approx(16, rel=0.2)


def test_colour_is_premultiplied_and_within_bounds() -> None:
    painted = sprite("car", 50)
    assert painted.colour.dtype == np.float32
    assert painted.colour.shape == (*painted.alpha.shape, 3)
    assert (painted.colour[painted.alpha == 0] == 0).all()
    assert (painted.colour <= 255 * 1.5 * painted.alpha[..., None] + 1e-3).all()


@given(left=st.integers(-90, 90), top=st.integers(-90, 90), length=st.floats(0.5, 8), light=st.floats(0, 6.3))
@settings(deadline=None, max_examples=40)
def test_an_object_cut_by_the_frame_equals_the_cut_of_a_larger_picture(
    left: int, top: int, length: float, light: float
) -> None:
    large = np.random.default_rng(0).uniform(0, 255, (300, 320, 3)).astype(np.float32)
    small = large[120:180, 110:190].copy()
    painted = sprite("cat", 45)
    in_small = lay(small, painted, left, top, light, (length, 0.4))
    in_large = lay(large, painted, left + 110, top + 120, light, (length, 0.4))
    np.testing.assert_array_equal(small, large[120:180, 110:190])
    np.testing.assert_array_equal(in_small, in_large[120:180, 110:190])


def test_shadow_falls_away_from_the_light_and_only_darkens() -> None:
    picture = np.full((90, 90, 3), 200, np.float32)
    disc = np.zeros((21, 21), np.float32)
    disc[5:16, 5:16] = 1
    covered = lay(
        picture, Sprite(np.zeros((21, 21, 3), np.float32), disc), 35, 35, 0.0, (8, 0.5)
    )  # light from the right
    assert covered.sum() == 121
    assert picture.max() <= 200
    assert picture[45, 36, 0] < 170
    assert picture[45, 58, 0] > 195


@pytest.mark.parametrize("kind", textures.BACKGROUNDS)
@pytest.mark.parametrize(("height", "width"), [(96, 144), (1, 5), (144, 96), (30, 600)])
def test_backgrounds_fill_any_frame(kind: str, height: int, width: int) -> None:
    drawn = textures.background(Cursor(4, 0), kind, height, width, 144)
    assert drawn.shape == (height, width, 3)
    assert drawn.dtype == np.float32
    assert np.isfinite(drawn).all()
    assert drawn.std() > 1


def test_backgrounds_differ_from_scene_to_scene() -> None:
    for kind in textures.BACKGROUNDS:
        first, second = (textures.background(Cursor(4, index), kind, 40, 60, 60) for index in (0, 1))
        assert np.abs(first - second).mean() > 3


def test_patterns_stay_close_to_the_range_of_bytes() -> None:
    for index in range(40):
        drawn = textures.pattern(Cursor(6, index), 30, 20)
        assert drawn.shape == (30, 20, 3)
        assert drawn.min() > -20
        assert drawn.max() < 275


def test_noise_has_blobs_of_the_cell_size() -> None:
    smooth, rough = (textures.noise(Cursor(7, 0), 200, 200, cell, cell) for cell in (20, 2))
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.3 * np.abs(np.diff(rough, axis=1)).mean()
    assert np.abs(rough).max() <= 1
