"""RoIs cut out on the device: Pillow's bits, whatever the boxes and the device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.embeddings import device_crops
from orl_ray.embeddings.device_crops import crop_resize_all, resize_taps
from orl_ray.scenes.decode import crop_resize

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")


def scene(height, width, count, seed):
    rng = np.random.default_rng(seed)
    sizes = np.stack([rng.integers(1, width + 1, count), rng.integers(1, height + 1, count)], axis=1)
    corners = rng.integers(0, np.array([width, height]) - sizes + 1)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), np.hstack([corners, sizes]).astype(np.int32)


def by_pillow(image, boxes, side):
    return np.stack([crop_resize(image, box, side) for box in boxes])


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 6), st.integers(1, 64), st.integers(0, 2**32))
def test_crops_are_pillows_to_the_bit(height, width, count, side, seed):
    image, boxes = scene(height, width, count, seed)
    found = crop_resize_all(torch.from_numpy(image), boxes, side)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), by_pillow(image, boxes, side))


@pytest.mark.parametrize(
    ("width", "height"), [(40, 40), (41, 42), (41, 43), (39, 41), (40, 41), (100, 161), (100, 159)]
)
def test_crops_are_pillows_on_either_side_of_where_it_turns_its_passes_round(width, height):
    image, _ = scene(height, width, 1, 5)
    box = np.array([[0, 0, width, height]], np.int32)
    np.testing.assert_array_equal(crop_resize_all(torch.from_numpy(image), box, 40).numpy(), by_pillow(image, box, 40))


def test_photographs_give_pillows_crops(scenes_root):
    from orl_ray.scenes.decode import decode

    for path in sorted((scenes_root / "coco_dev/images").iterdir())[:2]:
        image = decode(path.read_bytes(), 10**9)
        _, boxes = scene(*image.shape[:2], 6, 1)
        found = crop_resize_all(torch.from_numpy(image), boxes, 224)
        np.testing.assert_array_equal(found.numpy(), by_pillow(image, boxes, 224))


def test_how_many_fit_in_memory_changes_nothing(monkeypatch):
    image, boxes = scene(60, 80, 9, 2)
    whole = crop_resize_all(torch.from_numpy(image), boxes, 16)
    monkeypatch.setattr(device_crops, "_MOST_VALUES", 2 * 16 * 60 * 3)
    assert torch.equal(crop_resize_all(torch.from_numpy(image), boxes, 16), whole)


def test_an_image_without_boxes_has_no_crops():
    image, _ = scene(8, 8, 1, 0)
    assert crop_resize_all(torch.from_numpy(image), np.empty((0, 4), np.int32), 5).shape == (0, 5, 5, 3)


@pytest.mark.parametrize("box", [(-1, 0, 4, 4), (0, 0, 0, 4), (5, 0, 4, 4), (0, 5, 4, 4), (2**31 - 1, 0, 2**31 - 1, 4)])
def test_a_box_that_is_empty_or_leaves_the_image_is_refused(box):
    image, _ = scene(8, 8, 1, 0)
    with pytest.raises(ValueError, match=r"does not lie inside an image of 8x8 pixels"):
        crop_resize_all(torch.from_numpy(image), np.array([(0, 0, 8, 8), box], np.int32), 4)


@given(st.integers(1, 5000), st.integers(1, 300))
def test_weights_stay_within_the_interval_and_add_up_to_one(length, side):
    taps = resize_taps(np.array([length]), np.array([7]), side)
    assert taps.sources.min() == 7
    assert taps.sources.max() == 7 + length - 1
    sums = np.add.reduceat(taps.weights, taps.starts) / 2**22
    most_taps = 2 * max(1, length / side) + 1
    np.testing.assert_allclose(sums, 1, atol=0.5 * most_taps / 2**22)  # each is rounded to a whole number
    assert (taps.weights >= 0).all()


@on_gpu
def test_a_gpu_gives_the_same_bits():
    image, boxes = scene(300, 400, 20, 3)
    found = crop_resize_all(torch.from_numpy(image).cuda(), boxes, 96)
    np.testing.assert_array_equal(found.cpu().numpy(), by_pillow(image, boxes, 96))
