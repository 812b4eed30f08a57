"""Prefetched batches: in order, equal for any number of threads and processes, bounded, and honest about errors."""

import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.views import ViewMaker

TERMS = ("global", "intra", "inter")


@pytest.fixture
def maker(object_set):
    return ViewMaker(object_set, 0, "object_level", TERMS, view_size=16, patch_size=16)


STREAM = SampleStream(0, "object_level", 10, 4)  # steps 2, 7, ... span two laps


def test_batches_hold_the_crops_of_the_streams_samples_in_order(maker):
    batches = list(view_batches(maker, STREAM, map(Share, range(1, 4)), threads=3))
    assert [batch.step for batch in batches] == [1, 2, 3]
    for batch in batches:
        samples = [(part.lap, int(place)) for part in STREAM.batch(batch.step) for place in part.positions]
        for index, sample in enumerate(samples):
            for term, crops in maker.crops(*sample).items():
                for images, crop in zip(batch.images[term], crops, strict=True):
                    assert images.shape == (4, 3, 16, 16)
                    assert np.array_equal(images[index].permute(1, 2, 0).numpy(), crop)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shares_of_processes_make_up_the_batch_of_one(maker, size):
    (whole,) = view_batches(maker, STREAM, map(Share, range(2, 3)), threads=1)
    shares = list(view_batches(maker, STREAM, [Share(2, index, size) for index in range(size)], threads=2))
    for term in TERMS:
        for view in range(2):
            assert torch.equal(torch.cat([share.images[term][view] for share in shares]), whole.images[term][view])
            joined = np.concatenate([share.parameters[term][view].factors for share in shares])
            assert np.array_equal(joined, whole.parameters[term][view].factors)
    assert torch.equal(torch.cat([share.sample_weights["inter"] for share in shares]), whole.sample_weights["inter"])


def test_error_in_a_thread_is_raised_to_the_caller(maker, monkeypatch):
    def broken(self, lap, position):
        raise ValueError(f"bad image at {position}")

    monkeypatch.setattr(ViewMaker, "crops", broken)
    with pytest.raises(ValueError, match="bad image at"):
        next(view_batches(maker, STREAM, map(Share, range(5))))


def test_few_batches_are_made_ahead_and_threads_end_with_the_iterator(maker, monkeypatch):
    made = []
    crops = ViewMaker.crops
    monkeypatch.setattr(ViewMaker, "crops", lambda self, *sample: made.append(sample) or crops(self, *sample))
    with closing(view_batches(maker, STREAM, map(Share, range(100)), threads=2)) as batches:
        next(batches)
    assert len(made) <= 3 * 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("views")]
