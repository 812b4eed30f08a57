"""Selective search: a pure function of the pixels, whatever OpenCV's rand() does, also on degenerate images."""

import ctypes
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from orl_ray.proposals.selective_search import environment, propose


def scene(height=96, width=128, seed=3):
    """Return a few flat rectangles with a little noise."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.uint8)
    for _ in range(12):
        y, x = rng.integers(0, height - 10), rng.integers(0, width - 10)
        image[y : y + rng.integers(8, 50), x : x + rng.integers(8, 50)] = rng.integers(0, 256, 3)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def opencv_boxes(image, mode="Fast"):
    """Return OpenCV's own boxes, in its own order."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    getattr(search, f"switchToSelectiveSearch{mode}")()
    return search.process()


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_boxes_are_the_set_that_opencv_gives_for_the_bgr_image(mode):
    image = scene()
    expected = set(map(tuple, opencv_boxes(image, mode.capitalize()).tolist()))
    boxes = propose(image, mode)
    assert len(expected) > 10
    assert set(map(tuple, boxes.tolist())) == expected
    assert boxes.dtype == np.int32


def test_boxes_do_not_depend_on_the_state_of_c_rand():
    image, libc = scene(), ctypes.CDLL(None)
    results, orders = [], []
    for seed in (1, 2, 3):
        libc.srand(seed)
        orders.append(opencv_boxes(image).tolist())
        libc.srand(seed)
        results.append(propose(image, "fast"))
    assert orders[0] != orders[1]
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_boxes_are_distinct_sorted_lexicographically_and_inside_the_image():
    boxes = propose(scene(), "fast")
    rows = boxes.tolist()
    assert rows == sorted(rows)
    assert len(set(map(tuple, rows))) == len(rows)
    assert boxes[:, :2].min() >= 0
    assert boxes[:, 2:].min() >= 1
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 128
    assert (boxes[:, 1] + boxes[:, 3]).max() <= 96


def test_colour_channels_are_taken_as_rgb():
    image = scene()
    assert not np.array_equal(propose(image, "fast"), propose(np.ascontiguousarray(image[:, :, ::-1]), "fast"))


def test_a_view_that_is_not_contiguous_gives_the_boxes_of_its_pixels():
    image = scene()
    view = np.repeat(image, 2, axis=1)[:, ::2]
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(propose(view, "fast"), propose(image, "fast"))


def test_the_image_is_not_changed():
    image = scene()
    before = image.copy()
    propose(image, "fast")
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("mode", ["fast", "quality"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 2), (5, 5), (2, 500), (500, 1), (64, 64)])
def test_an_image_of_one_colour_gives_exactly_its_own_box(height, width, mode):
    boxes = propose(np.full((height, width, 3), 77, np.uint8), mode)
    assert boxes.tolist() == [[0, 0, width, height]]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (1, 500), (500, 2), (40, 3), (300, 5)])
def test_noise_of_extreme_shape_gives_boxes_inside_the_image(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = propose(image, "fast")
    assert len(boxes) >= 1
    assert (boxes[:, :2] + boxes[:, 2:] <= (width, height)).all()


def test_quality_proposes_more_than_fast():
    assert len(propose(scene(), "quality")) > len(propose(scene(), "fast"))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
    ],
)
def test_what_is_not_an_rgb_image_is_refused(image):
    with pytest.raises(ValueError, match="uint8 image"):
        propose(image, "fast")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'fast' or 'quality'"):
        propose(scene(), "single")


def test_environment_names_the_opencv_build():
    facts = environment()
    assert facts["opencv"] == cv2.__version__
    assert len(facts["opencv_build"]) == 16
    int(facts["opencv_build"], 16)
    assert facts == environment()


@pytest.mark.real
def test_a_photograph_gives_the_same_boxes_twice(scenes_root: Path):
    path = min((scenes_root / "coco_dev" / "images").glob("*.jpg"))
    image = cv2.resize(cv2.imread(str(path)), None, fx=0.4, fy=0.4)[:, :, ::-1]
    boxes = propose(image, "fast")
    assert len(boxes) > 50
    np.testing.assert_array_equal(boxes, propose(image, "fast"))


@pytest.mark.parametrize("size", [(96, 128), (300, 40), (41, 333)])
def test_a_larger_image_is_searched_small_and_its_boxes_are_scaled_back(size):
    image = scene(*size)
    longer = max(size) // 2
    height, width = (max(1, round(side * longer / max(size))) for side in size)
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    expected = set()
    for x, y, w, h in propose(small, "fast").tolist():
        left, right = round(x * size[1] / width), round((x + w) * size[1] / width)
        top, bottom = round(y * size[0] / height), round((y + h) * size[0] / height)
        expected.add((left, top, right - left, bottom - top))
    boxes = propose(image, "fast", max_side=longer)
    assert set(map(tuple, boxes.tolist())) == expected
    assert (0, 0, size[1], size[0]) in expected
    assert boxes.dtype == np.int32
    assert len(boxes) == len(expected)


@pytest.mark.parametrize("max_side", [0, 128, 1000])
def test_an_image_that_is_not_larger_is_searched_as_it_is(max_side):
    np.testing.assert_array_equal(propose(scene(), "fast", max_side=max_side), propose(scene(), "fast"))
