"""Random crops and jittered boxes against plain loops over the same draws, and their promised properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from orl_ray import draws
from orl_ray.pretraining.crops import jitter_boxes, random_resized_crops

KEY = draws.stream(0, "crops")


def iou(first, second):
    ends = [min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) for axis in (0, 1)]
    sides = [max(0, end - max(first[axis], second[axis])) for axis, end in enumerate(ends)]
    common = sides[0] * sides[1]
    return common / (first[2] * first[3] + second[2] * second[3] - common)


def looped_crop(numbers, width, height, scale, ratio):
    for area, aspect, left, top in numbers.reshape(-1, 4):
        target = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        shape = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
        w, h = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if 0 < w <= width and 0 < h <= height:
            return [int(left * (width - w + 1)), int(top * (height - h + 1)), w, h]
    top, left, h, w = RandomResizedCrop.get_params(torch.zeros(3, height, width), [4.0, 4.0], list(ratio))
    return [left, top, w, h]  # a scale that never fits leads torchvision to its fall-back


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=8), st.integers(0, 2**40))
def test_crops_equal_torchvisions_rule_on_the_same_draws(sizes, first_id):
    ids = np.arange(first_id, first_id + len(sizes))
    widths, heights = np.array(sizes).T
    found = random_resized_crops(KEY, ids, widths, heights)
    numbers = draws.uniform(KEY, ids, 40)
    wanted = [looped_crop(row, *size, (0.08, 1.0), (3 / 4, 4 / 3)) for row, size in zip(numbers, sizes, strict=True)]
    assert found.tolist() == wanted
    assert found.dtype == np.int32


@pytest.mark.parametrize("size", [(300, 20), (20, 300), (101, 100), (3, 1), (1, 1)])
def test_fallback_equals_torchvisions(size):
    found = random_resized_crops(KEY, np.array([1]), np.array(size[:1]), np.array(size[1:]), scale=(4.0, 4.0))
    top, left, h, w = RandomResizedCrop.get_params(torch.zeros(3, size[1], size[0]), [4.0, 4.0], [3 / 4, 4 / 3])
    assert found.tolist() == [[left, top, w, h]]


def test_crops_are_distributed_like_torchvisions():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.zeros(3, 480, 640)
        theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    top, left, height, width = theirs.T.astype(float)
    x, y, w, h = random_resized_crops(KEY, np.arange(4000), np.full(4000, 640), np.full(4000, 480)).T.astype(float)
    quantiles = [0.02, 0.25, 0.5, 0.75, 0.98]
    for mine, reference in ((w * h, width * height), (w / h, width / height), (x, left), (y, top)):
        difference = np.quantile(mine, quantiles) - np.quantile(reference, quantiles)
        assert np.abs(difference).max() < 0.06 * np.ptp(reference)


def looped_jitter(numbers, box, width, height):
    x, y, w, h = (int(value) for value in box)
    for area, aspect, right, down in numbers.reshape(-1, 4):
        target = (0.5 + 1.5 * area) * w * h
        shape = math.exp(math.log(0.5) + (math.log(2) - math.log(0.5)) * aspect)
        new_w, new_h = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        centre_x, centre_y = x + w / 2 + (right - 0.5) * w, y + h / 2 + (down - 0.5) * h
        new = [round(centre_x - new_w / 2), round(centre_y - new_h / 2), new_w, new_h]
        inside = new[0] >= 0 and new[1] >= 0 and new[0] + new_w <= width and new[1] + new_h <= height
        if inside and iou(new, [x, y, w, h]) > 0.5:
            return new
    return [x, y, w, h]


@st.composite
def box_in_image(draw):
    width, height = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    w, h = draw(st.integers(1, width)), draw(st.integers(1, height))
    return width, height, [draw(st.integers(0, width - w)), draw(st.integers(0, height - h)), w, h]


@settings(max_examples=100, deadline=None)
@given(st.lists(box_in_image(), min_size=1, max_size=5), st.integers(0, 2**40))
def test_jitter_equals_the_specification_as_a_loop(cases, first_id):
    ids = np.arange(first_id, first_id + len(cases))
    widths, heights = (np.array([case[column] for case in cases]) for column in (0, 1))
    boxes = np.array([case[2] for case in cases], np.int32)
    found = jitter_boxes(KEY, ids, boxes, widths, heights)
    numbers = draws.uniform(KEY, ids, 800)
    assert found.tolist() == [looped_jitter(numbers[row], box, *case[:2]) for row, (*case, box) in enumerate(cases)]


@settings(max_examples=100, deadline=None)
@given(box_in_image(), st.integers(0, 2**40))
def test_jittered_box_is_inside_and_overlaps_by_more_than_half_or_is_the_box(case, image_id):
    width, height, box = case
    (found,) = jitter_boxes(KEY, np.array([image_id]), np.array([box], np.int32), np.array([width]), np.array([height]))
    x, y, w, h = found.tolist()
    assert x >= 0
    assert y >= 0
    assert x + w <= width
    assert y + h <= height
    assert found.tolist() == box or iou([x, y, w, h], box) > 0.5


def test_jitter_moves_ordinary_boxes_and_leaves_a_box_of_extreme_aspect():
    ids = np.arange(200)
    sizes = np.full(200, 1000), np.full(200, 1000)
    square = np.tile(np.array([400, 400, 120, 100], np.int32), (200, 1))
    assert (jitter_boxes(KEY, ids, square, *sizes) != square).any(axis=1).all()
    strip = np.tile(np.array([100, 500, 800, 100], np.int32), (200, 1))  # no aspect below 2 overlaps it by half
    assert np.array_equal(jitter_boxes(KEY, ids, strip, *sizes), strip)


def test_box_of_an_image_does_not_depend_on_the_rest_of_the_batch():
    ids = np.array([5, 9, 11])
    boxes = np.array([[10, 10, 50, 40], [3, 4, 30, 60], [0, 0, 90, 90]], np.int32)
    widths, heights = np.array([120, 100, 91]), np.array([90, 110, 95])
    together = jitter_boxes(KEY, ids, boxes, widths, heights)
    alone = jitter_boxes(KEY, ids[1:2], boxes[1:2], widths[1:2], heights[1:2])
    assert np.array_equal(together[1], alone[0])
    crops = random_resized_crops(KEY, ids, widths, heights)
    assert np.array_equal(crops[2], random_resized_crops(KEY, ids[2:], widths[2:], heights[2:])[0])
