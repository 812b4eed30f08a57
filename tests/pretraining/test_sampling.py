"""The stream of samples: full batches, whole laps, the same samples for any number of processes."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orl_ray.pretraining.sampling import RUN, SampleStream, Share


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


@given(st.integers(2, 40), st.integers(2, 9), st.integers(0, 5))
def test_short_last_batches_end_each_lap_with_what_is_left(images, batch, seed):
    assume(images % batch != 1)
    stream = SampleStream(seed, "image_level", images, batch, last_batch="short")
    steps = -(-images // batch)
    assert stream.total_steps(3) == 3 * steps
    for lap in range(3):
        parts = [flat(stream.batch(step)) for step in range(lap * steps, (lap + 1) * steps)]
        assert [len(part) for part in parts] == [batch] * (steps - 1) + [images - batch * (steps - 1)]
        assert sorted(sample for part in parts for sample in part) == [(lap, position) for position in range(images)]


@given(st.integers(4, 40), st.sampled_from([2, 4]), st.integers(0, 5))
def test_dropped_batches_are_the_full_ones_of_the_same_laps(images, batch, seed):
    full_laps = SampleStream(seed, "image_level", images, images)
    stream = SampleStream(seed, "image_level", images, batch, last_batch="dropped")
    steps = images // batch
    assert stream.total_steps(2) == 2 * steps
    for lap in range(2):
        seen = [sample for step in range(lap * steps, (lap + 1) * steps) for sample in flat(stream.batch(step))]
        assert seen == flat(full_laps.batch(lap))[: steps * batch]


@given(st.integers(2, 40), st.sampled_from([1, 2, 4]), st.integers(0, 30))
def test_shares_of_a_short_batch_make_it_up(images, count, step):
    assume(images % 8 != 1)
    stream = SampleStream(0, "image_level", images, 8, last_batch="short")
    whole, shares = flat(stream.batch(step)), [flat(stream.share(Share(step, at, count))) for at in range(count)]
    assert [sample for share in shares for sample in share] == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(whole) == stream.count(step)


def test_published_run_has_232_steps_an_epoch_the_last_of_15_images():
    stream = SampleStream(0, "image_level", 118_287, 512, last_batch="short")
    assert stream.total_steps(800) == 185_600 == 232 * 800
    assert len(flat(stream.batch(231))) == 15
    assert stream.epoch(464) == 2
    assert SampleStream(0, "image_level", 241_690, 512, last_batch="short").total_steps(800) == 378_400


def test_laps_without_a_batch_for_batch_norm_are_refused():
    with pytest.raises(ValueError, match="9 images would be a batch of its own"):
        SampleStream(0, "image_level", 9, 4, last_batch="short")
    with pytest.raises(ValueError, match="3 images do not fill a batch of 4"):
        SampleStream(0, "image_level", 3, 4, last_batch="dropped")


WINDOWED = st.builds(
    SampleStream,
    seed=st.integers(0, 3),
    stage=st.just("image_level"),
    images=st.integers(50, 1400),
    batch_size=st.integers(40, 300),
    window=st.integers(1, 1600),
)


@settings(max_examples=20, deadline=None)
@given(WINDOWED)
def test_windows_see_each_image_once_a_lap_and_hold_few_runs(stream):
    steps = -(-2 * stream.images // stream.batch_size)
    samples = [sample for step in range(steps) for sample in flat(stream.batch(step))]
    for lap in range(2):
        positions = [position for at, position in samples if at == lap]
        assert sorted(positions) == list(range(stream.images))
        for start in range(0, stream.images, stream.window):
            runs = {position // RUN for position in positions[start : start + stream.window]}
            assert len(runs) <= -(-stream.window // RUN) + 2  # the short last run may lie among them


def test_a_window_shuffles_within_runs_between_runs_and_between_laps():
    stream = SampleStream(0, "image_level", 8 * RUN, 8 * RUN, window=2 * RUN)
    first, second = (np.concatenate([part.positions for part in stream.batch(lap)]) for lap in range(2))
    runs = [list(dict.fromkeys((order[: 2 * RUN] // RUN).tolist())) for order in (first, second)]
    assert all(len(found) == 2 for found in runs)
    assert sorted(runs[0]) != sorted(runs[1])
    steps = np.abs(np.diff(first[: 2 * RUN]))
    assert np.median(steps) > RUN / 4
    assert not np.array_equal(first, second)


@given(WINDOWED, st.integers(0, 5), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_what_comes_a_window_ahead_is_what_will_come(stream, step, count):
    ahead = [stream.a_window_ahead(Share(step, index, count)) for index in range(count)]
    start = step * stream.batch_size + stream.window
    last = -(-(start + stream.batch_size) // stream.batch_size)
    samples = [position for at in range(last) for _, position in flat(stream.batch(at))]
    assert np.concatenate(ahead).tolist() == samples[start : start + stream.batch_size]
