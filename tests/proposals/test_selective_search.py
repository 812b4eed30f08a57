"""Selective search: OpenCV's box set exactly, a pure function of the pixels, also on degenerate images."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from orl_ray.proposals.opencv_reference import opencv_boxes
from orl_ray.proposals.selective_search import environment, propose


def scene(height=96, width=128, seed=3, noise=3):
    """Return a few flat rectangles with a little noise."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.uint8)
    for _ in range(12):
        y, x = rng.integers(0, height - 10), rng.integers(0, width - 10)
        image[y : y + rng.integers(8, 50), x : x + rng.integers(8, 50)] = rng.integers(0, 256, 3)
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def distinct(regions):
    """Return the set of boxes of regions."""
    return set(map(tuple, regions.boxes.tolist()))


def opencv_set(image, mode="fast"):
    """Return the set of OpenCV's boxes."""
    return set(map(tuple, opencv_boxes(image, mode).tolist()))


def same_regions(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", ["fast", "quality"])
@pytest.mark.parametrize(("seed", "noise"), [(3, 3), (4, 0), (6, 0), (9, 0)])
def test_boxes_are_the_set_that_opencv_gives(mode, seed, noise):
    image = scene(seed=seed, noise=noise)
    assert len(opencv_set(image, mode)) > 10
    assert distinct(propose(image, mode)) == opencv_set(image, mode)


@pytest.mark.parametrize("mode", ["fast", "quality"])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 3), (2, 300), (300, 1), (40, 3), (60, 200), (64, 64)])
@pytest.mark.parametrize("kind", ["constant", "noise", "black and white", "grey", "ramp", "board", "smooth"])
def test_degenerate_images_have_opencvs_boxes_too(mode, size, kind):
    image = degenerate(kind, *size)
    assert distinct(propose(image, mode)) == opencv_set(image, mode)


def degenerate(kind, height, width):
    rng = np.random.default_rng(1)
    rows, columns = np.indices((height, width))
    planes = {
        "constant": lambda: np.full((height, width, 3), 77),
        "noise": lambda: rng.integers(0, 256, (height, width, 3)),
        "black and white": lambda: rng.integers(0, 2, (height, width, 3)) * 255,
        "grey": lambda: np.repeat(rng.integers(0, 256, (height, width, 1)), 3, axis=2),
        "ramp": lambda: np.repeat((columns % 256)[:, :, None], 3, axis=2),
        "board": lambda: np.repeat(((rows // 8 + columns // 8) % 2 * 255)[:, :, None], 3, axis=2),
        "smooth": lambda: cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 5),
    }
    return planes[kind]().astype(np.uint8)


def test_regions_do_not_depend_on_the_state_of_c_rand():
    image, libc = scene(), ctypes.CDLL(None)
    results = []
    for seed in (1, 2):
        libc.srand(seed)
        results.append(propose(image, "fast"))
    assert same_regions(*results)


@pytest.mark.parametrize("mode", ["fast", "quality", "half"])
def test_regions_have_areas_inside_the_image_and_levels_from_1(mode):
    regions = propose(scene(), mode)
    boxes = regions.boxes
    assert (boxes.dtype, regions.levels.dtype, regions.places.dtype) == (np.int32, np.int16, np.int32)
    assert boxes[:, :2].min() >= 0
    assert boxes[:, 2:].min() >= 1
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 128
    assert (boxes[:, 1] + boxes[:, 3]).max() <= 96
    assert regions.levels.min() == 1
    assert (0, 0, 128, 96) in distinct(regions)


def test_each_hierarchy_ends_with_the_whole_image_at_place_1():
    regions = propose(scene(), "fast")
    last = regions.places == 1
    assert last.sum() == 12
    assert (regions.boxes[last] == (0, 0, 128, 96)).all()
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    for start, end in zip(starts, [*starts[1:], len(last)], strict=True):
        places, levels = regions.places[start:end], regions.levels[start:end]
        np.testing.assert_array_equal(places, np.arange(end - start, 0, -1))
        segments = (end - start + 1) // 2
        assert (levels[:segments] == 1).all()
        assert (levels[segments:] > 1).all()


def test_several_threads_find_the_same_regions_as_one():
    images = [scene(seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda image: propose(image, "fast"), images))
    assert all(same_regions(propose(image, "fast"), regions) for image, regions in zip(images, found, strict=True))


def test_colour_channels_are_taken_as_rgb():
    image = scene()
    assert distinct(propose(image, "fast")) != distinct(propose(np.ascontiguousarray(image[:, :, ::-1]), "fast"))


def test_a_view_that_is_not_contiguous_gives_the_boxes_of_its_pixels():
    image = scene()
    view = np.repeat(image, 2, axis=1)[:, ::2]
    assert not view.flags.c_contiguous
    assert same_regions(propose(view, "fast"), propose(image, "fast"))


def test_the_image_is_not_changed():
    image = scene()
    before = image.copy()
    propose(image, "fast")
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("mode", ["fast", "quality", "half"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 2), (5, 5), (2, 500), (500, 1), (64, 64)])
def test_an_image_of_one_colour_gives_exactly_its_own_box(height, width, mode):
    regions = propose(np.full((height, width, 3), 77, np.uint8), mode)
    assert distinct(regions) == {(0, 0, width, height)}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (1, 500), (500, 2), (300, 5)])
def test_noise_of_extreme_shape_at_half_size_gives_boxes_inside_the_image(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = propose(image, "half").boxes
    assert len(boxes) >= 1
    assert (boxes[:, :2] + boxes[:, 2:] <= (width, height)).all()
    assert boxes[:, 2:].min() >= 1


def test_quality_proposes_more_than_fast():
    assert len(distinct(propose(scene(), "quality"))) > len(distinct(propose(scene(), "fast")))


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
    with pytest.raises(ValueError, match="'fast', 'quality', 'half'"):
        propose(scene(), "single")


def test_environment_names_the_opencv_build():
    facts = environment()
    assert facts["opencv"] == cv2.__version__
    assert len(facts["opencv_build"]) == 16
    int(facts["opencv_build"], 16)
    assert facts == environment()


@pytest.mark.real
@pytest.mark.parametrize(("mode", "count"), [("fast", 4), ("quality", 1)])
def test_photographs_have_exactly_opencvs_boxes(scenes_root: Path, mode, count):
    paths = sorted((scenes_root / "coco_dev" / "images").glob("*.jpg"))
    for path in paths[3 : 3 + count]:
        image = cv2.imread(str(path))[:, :, ::-1]
        assert distinct(propose(image, mode)) == opencv_set(image, mode)


@pytest.mark.parametrize("size", [(96, 128), (300, 40), (41, 333)])
def test_a_larger_image_is_searched_small_and_its_boxes_are_scaled_back(size):
    image = scene(*size)
    longer = max(size) // 2
    height, width = (max(1, round(side * longer / max(size))) for side in size)
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    expected = []
    for x, y, w, h in propose(small, "fast").boxes.tolist():
        left, right = round(x * size[1] / width), round((x + w) * size[1] / width)
        top, bottom = round(y * size[0] / height), round((y + h) * size[0] / height)
        expected.append([left, top, right - left, bottom - top])
    regions = propose(image, "fast", max_side=longer)
    assert regions.boxes.tolist() == expected
    assert [0, 0, size[1], size[0]] in expected
    np.testing.assert_array_equal(regions.levels, propose(small, "fast").levels)


@pytest.mark.parametrize("max_side", [0, 128, 1000])
def test_an_image_that_is_not_larger_is_searched_as_it_is(max_side):
    assert same_regions(propose(scene(), "fast", max_side=max_side), propose(scene(), "fast"))
