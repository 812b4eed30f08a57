"""Learning rate and EMA momentum at the points where they are known, and against mmcv's formula."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray import config
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.schedules import (
    Schedule,
    ema_momentum,
    learning_rate,
    scaled_ema_base,
    scaled_learning_rate,
)


def test_published_rate_for_the_published_batch():
    assert scaled_learning_rate(0.2, 512) == 0.4


@given(st.integers(1, 10_000), st.floats(0, 20_000), st.data())
def test_rate_is_mmcvs_cosine_with_its_linear_warmup(total, warmup, data):
    step = data.draw(st.integers(0, total))
    cosine = 0.4 * 0.5 * (math.cos(math.pi * step / total) + 1)
    missing = (1 - step / warmup) * (1 - 1e-4) if step < warmup else 0  # mmcv: LrUpdaterHook.get_warmup_lr
    assert learning_rate(step, total, 0.4, warmup) == pytest.approx(cosine * (1 - missing), abs=1e-12)


def test_rate_starts_small_and_ends_at_zero():
    assert learning_rate(0, 100, 0.4, 10) == pytest.approx(0.4e-4)
    assert learning_rate(0, 100, 0.4, 0) == pytest.approx(0.4)
    assert learning_rate(100, 100, 0.4, 10) == pytest.approx(0, abs=1e-12)


def test_ema_momentum_goes_from_base_to_one():
    assert ema_momentum(0, 50, 0.99) == pytest.approx(0.99)
    assert ema_momentum(25, 50, 0.99) == pytest.approx(0.995)
    assert ema_momentum(50, 50, 0.99) == 1
    values = [ema_momentum(step, 50, 0.99) for step in range(51)]
    assert values == sorted(values)


def test_ema_base_averages_over_as_many_images_for_any_batch():
    assert scaled_ema_base(0.99, 512, 1000, 0) == 0.99
    assert scaled_ema_base(0.99, 64, 1000, 0) ** 8 == pytest.approx(0.99)
    assert scaled_ema_base(0.99, 1024, 1000, 0) == pytest.approx(0.99**2)


@given(st.integers(1, 4096), st.integers(1, 10**6), st.floats(0.01, 1))
def test_ema_horizon_caps_the_averaged_steps(batch, total, horizon):
    base = scaled_ema_base(0.99, batch, total, horizon)
    assert 0 <= base <= scaled_ema_base(0.99, batch, total, 0)
    assert 1 / (1 - base) <= max(1, horizon * total) * (1 + 1e-9)


def test_schedule_of_a_long_run_in_full_batches():
    schedule = Schedule.of(config.ImageLevel(), SampleStream(0, "image_level", 118_287, 512))
    assert (schedule.total, schedule.peak) == (184_824, 0.4)
    assert schedule.warmup == pytest.approx(4 * 118_287 / 512)
    assert schedule.ema_momentum(0) == pytest.approx(0.99)
    assert schedule.ema_momentum(184_824) == 1
    assert schedule.learning_rate(924) == pytest.approx(0.4, rel=1e-3)


def published(**settings):
    stream = SampleStream(0, "image_level", 118_287, 512, last_batch="short")
    return Schedule.of(config.ImageLevel(cosine="epoch", **settings), stream)


@given(st.integers(0, 185_599))
def test_published_cosine_changes_once_an_epoch_and_its_warmup_every_step(step):
    cosine = 0.4 * 0.5 * (1 + math.cos(math.pi * (step // 232) / 800))  # mmcv: by_epoch, epochs counted from 0
    missing = (1 - step / 928) * (1 - 1e-4) if step < 928 else 0
    assert published().learning_rate(step) == pytest.approx(cosine * (1 - missing), rel=1e-12)


def test_published_schedule_takes_warmup_and_momentum_from_steps():
    schedule = published()
    assert (schedule.total, schedule.warmup) == (185_600, 928)
    assert schedule.ema_momentum(92_800) == pytest.approx(0.995)


def test_cosine_of_epochs_needs_whole_epochs():
    with pytest.raises(ValueError, match=r"cosine=epoch: an epoch of 10 images is 2\.5 batches of 4"):
        Schedule.of(config.ImageLevel(cosine="epoch", batch_size=4), SampleStream(0, "image_level", 10, 4))


def test_momentum_may_stay_where_it_is():
    steady = Schedule.of(
        config.ImageLevel(batch_size=256, ema_base=0.999**2, ema_final=0.999**2),
        SampleStream(0, "image_level", 1000, 256),
    )
    assert {round(steady.ema_momentum(step), 12) for step in range(steady.total + 1)} == {0.999}
