"""The stream of samples: full batches, whole laps, the same samples for any number of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.pretraining.sampling import SampleStream, Share


def flat(parts):
    return [(part.lap, int(position)) for part in parts for position in part.positions]


@given(st.integers(1, 23), st.integers(1, 9), st.integers(0, 5))
def test_every_lap_sees_each_image_once_and_batches_are_full(images, batch, seed):
    stream = SampleStream(seed, "image_level", images, batch)
    samples = []
    for step in range(stream.total_steps(3)):
        part = flat(stream.batch(step))
        assert len(part) == batch
        samples += part
    for lap in range(3):
        assert sorted(position for at, position in samples if at == lap) == list(range(images))
    assert [lap for lap, _ in samples] == sorted(lap for lap, _ in samples)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 10), st.integers(0, 40))
def test_shares_are_contiguous_slices_of_the_same_batch_and_differ_by_one_at_most(images, batch, count, step):
    stream = SampleStream(1, "object_level", images, batch)
    shares = [flat(stream.share(Share(step, index, count))) for index in range(count)]
    assert [sample for share in shares for sample in share] == flat(stream.batch(step))
    assert {len(share) for share in shares} <= {batch // count, -(-batch // count)}


def test_order_differs_between_laps_seeds_and_stages():
    def order(seed, stage, lap):
        return tuple(np.concatenate([part.positions for part in SampleStream(seed, stage, 20, 20).batch(lap)]).tolist())

    keys = [(0, "image_level", 0), (0, "image_level", 1), (1, "image_level", 0), (0, "object_level", 0)]
    assert len({order(*key) for key in keys}) == 4


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "steps"),
    [(800, 118_287, 512, 184_824), (12, 480, 64, 90), (0.1, 30, 1, 3), (0.01, 5, 8, 1)],
)
def test_total_steps_are_rounded_up(epochs, images, batch, steps):
    assert SampleStream(0, "image_level", images, batch).total_steps(epochs) == steps
