"""The fakes with which the driver's memory is measured, and what is made of what it held."""

import numpy as np
import pytest
import torch

from benchmarks.driver_memory import SMALL_PICTURES, HeldBytes, figures
from benchmarks.faked_kernels import FAKED, REGIONS, PooledColours, scattered_regions, with_fakes
from benchmarks.synthetic_coco import write_coco
from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.vectors import embed
from orl_ray.graph import main_job
from orl_ray.proposals.ranking import rank
from orl_ray.proposals.roi_filter import filter_rois
from orl_ray.settings import load


def picture(seed, shape=(48, 64, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(48, 64, 3), (2, 9, 3)])
def test_scattered_regions_lie_in_the_image_and_depend_on_its_pixels(shape):
    found = scattered_regions(picture(0, shape), "fast")
    assert len(found.boxes) == len(found.levels) == len(found.places) == REGIONS
    assert found.boxes[:, :2].min() >= 0
    assert found.boxes[:, 2:].min() >= 1
    assert (found.boxes[:, :2] + found.boxes[:, 2:] <= (shape[1], shape[0])).all()
    assert (found.boxes == scattered_regions(picture(0, shape), "quality", 9).boxes).all()
    assert (found.boxes != scattered_regions(picture(1, shape), "fast").boxes).any()


def test_scattered_regions_pass_through_the_real_order_and_filter():
    config = load("coco", None, SMALL_PICTURES)
    counts = []
    for seed in range(5):
        proposals = rank(scattered_regions(picture(seed), "fast"), 0, seed)
        counts.append(len(filter_rois(proposals.boxes, 64, 48, config.rois).boxes))
    assert 4 < min(counts) <= max(counts) <= config.rois.max_rois


def test_the_fake_encoder_tells_pictures_apart():
    encoder = FrozenEncoder(PooledColours(), None, torch.device("cpu"))
    vectors = embed(encoder, [picture(seed, (16, 16, 3)) for seed in range(3)], 2).astype(np.float64)
    assert vectors.shape == (3, encoder.features)
    assert np.abs(vectors @ vectors.T - np.eye(3)).max() < 0.9


def test_only_the_slow_kernels_are_faked():
    stages = main_job()
    for faked, real in zip(with_fakes(stages), stages, strict=True):
        assert (faked.name, faked.version, faked.inputs, faked.settings) == (
            real.name,
            real.version,
            real.inputs,
            real.settings,
        )
        assert (faked.work is real.work) == (faked.name not in FAKED)


def test_as_many_different_pictures_are_written_as_asked_for(tmp_path):
    root, _ = write_coco(tmp_path, 7, 1, pictures=7)
    assert len({path.read_bytes() for path in root.rglob("*.jpg")}) == 7


def test_growth_is_between_the_peaks_of_both_sizes():
    small, large = HeldBytes(), HeldBytes()
    for mark in (100, 130, 110):
        small.note("listing", mark << 20, 200 << 20)
    large.note("listing", 90 << 20, 150 << 20)
    large.note("rois", 170 << 20, 260 << 20)
    large.note("rois", 120 << 20, 240 << 20)
    found = figures({1000: small, 5000: large}, 50)
    assert found["driver_mb"] == {1000: 130, 5000: 170}
    assert found["ready_mb"] == {1000: 100, 5000: 90}
    assert found["resident_mb"] == {1000: 200, 5000: 260}
    assert found["by_stage_mb"][5000] == {"listing": 90, "rois": 170}
    assert (found["growth_mb"], found["passes"]) == (40, True)
    assert not figures({1000: small, 5000: large}, 40)["passes"]
