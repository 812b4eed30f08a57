"""Cutting: near Pillow's resize, only inside the box, and decoded smaller only where a view loses nothing by it."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orl_ray.pretraining.cuts import Cut
from orl_ray.pretraining.cutting import crop_resize, cut_views, reduction_for
from orl_ray.scenes import decode

LIMIT = 10**7


def picture(height=240, width=320, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 60 + 2, width // 60 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92)
    return file.getvalue()


def cut(box, side):
    return Cut(0, np.array(box, np.int32), side)


@st.composite
def boxes(draw):
    height, width = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    w, h = draw(st.integers(1, width)), draw(st.integers(1, height))
    return height, width, [draw(st.integers(0, width - w)), draw(st.integers(0, height - h)), w, h]


@settings(max_examples=80, deadline=None)
@given(boxes(), st.integers(1, 120))
def test_crops_lie_a_level_at_most_beside_pillows(case, side):
    height, width, box = case
    image = picture(height, width)
    found = crop_resize(image, np.array(box), side)
    difference = np.abs(found.astype(int) - decode.crop_resize(image, np.array(box), side))
    assert (found.shape, found.dtype) == ((side, side, 3), np.uint8)
    assert difference.max() <= 2  # two passes, each a level
    assert difference.mean() < 0.5


@pytest.mark.real
def test_crops_of_photographs_lie_a_fraction_of_a_level_beside_pillows(scenes_root):
    differences = []
    for number, path in enumerate(sorted((scenes_root / "coco_dev" / "images").iterdir())[:12]):
        image = decode.decode(path.read_bytes(), LIMIT)
        box = np.array([number, 2 * number, image.shape[1] - 3 * number, image.shape[0] - 4 * number])
        for side in (224, 96):
            found, wanted = crop_resize(image, box, side), decode.crop_resize(image, box, side)
            differences.append(np.abs(found.astype(int) - wanted).mean())
    assert np.mean(differences) < 0.1


def test_pixels_outside_the_box_have_no_influence():
    image = picture()
    changed = image.copy()
    changed[:50], changed[150:] = 255, 0
    box = np.array([20, 50, 200, 100])
    np.testing.assert_array_equal(crop_resize(image, box, 64), crop_resize(changed, box, 64))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (316, 0, 5, 5), (0, 239, 1, 2)])
@pytest.mark.parametrize("margin", [0.0, 0.01])
def test_boxes_that_leave_the_image_are_errors(box, margin):
    with pytest.raises(ValueError, match="does not lie inside an image of 320x240"):
        cut_views(jpeg(picture()), [cut(box, 8)], LIMIT, margin)


@pytest.mark.parametrize(
    ("boxes", "margin", "reduction"),
    [
        ([(0, 0, 64, 64)], 0.0, 1),
        ([(0, 0, 64, 64)], 1.0, 4),
        ([(0, 0, 64, 64)], 1.01, 2),
        ([(0, 0, 64, 64)], 0.5, 8),
        ([(0, 0, 640, 640)], 1.0, 8),
        ([(0, 0, 640, 31)], 1.0, 1),
        ([(0, 0, 640, 640), (0, 0, 40, 32)], 1.0, 2),
        ([(0, 0, 4, 4)], 1.0, 1),
    ],
)
def test_the_smallest_crop_decides_how_large_an_image_decodes(boxes, margin, reduction):
    assert reduction_for([cut(box, 16) for box in boxes], margin) == reduction


def test_views_of_a_smaller_decode_show_the_same_and_others_are_untouched():
    image = picture(481, 643, seed=3)
    data, box = jpeg(image), (33, 21, 580, 430)
    whole, smaller = (cut_views(data, [cut(box, 96), cut(box, 48)], LIMIT, margin) for margin in (0.0, 1.0))
    for one, other in zip(whole, smaller, strict=True):
        assert 0 < np.abs(one.astype(int) - other).mean() < 3
    for one, other in zip(whole, cut_views(data, [cut(box, 96), cut(box, 48)], LIMIT, 3.0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_image_that_keeps_its_size_is_cut_where_the_boxes_are():
    image, file = picture(), io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    box = (33, 21, 180, 200)
    (view,) = cut_views(file.getvalue(), [cut(box, 32)], LIMIT, margin=1.0)
    np.testing.assert_array_equal(view, crop_resize(image, np.array(box), 32))


@given(st.integers(17, 90), st.integers(17, 90), st.data())
@settings(max_examples=40, deadline=None)
def test_every_box_of_an_image_can_be_cut_from_a_smaller_decode(height, width, data):
    w, h = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    box = (data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h)), w, h)
    (view,) = cut_views(jpeg(picture(height, width)), [cut(box, 16)], LIMIT, margin=0.001)
    assert view.shape == (16, 16, 3)
