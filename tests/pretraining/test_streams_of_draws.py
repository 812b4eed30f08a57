"""Every draw of training has a stream of its own, and none depends on how the work is shared out."""

from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from orl_ray import draws
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.views import ViewMaker

TERMS = ("global", "intra", "inter")
STAGE = "object_level"
LAPS = 3


@pytest.fixture
def maker(object_set):
    return ViewMaker(object_set, 0, STAGE, TERMS, view_size=16, patch_size=16)


@pytest.fixture
def streams(monkeypatch):
    """Record key -> the (parent key or seed, names) that it was made from, and every (key, ids) that was drawn from."""
    made, drawn, fold, uniform = {}, [], draws.stream, draws.uniform

    def recording_stream(seed, *names):
        key = fold(seed, *names)
        assert made.setdefault(key, (seed, names)) == (seed, names), "two streams have one key"
        return key

    def recording_uniform(key, ids, count):
        drawn.extend((key, int(number)) for number in ids)
        return uniform(key, ids, count)

    monkeypatch.setattr(draws, "stream", recording_stream)
    monkeypatch.setattr(draws, "uniform", recording_uniform)
    return made, drawn


def path(made, key):
    """Return the names that lead from the run's seed to a key."""
    seed, names = made[key]
    return (*path(made, seed), *names) if seed in made else (seed, *names)


def test_no_two_draws_of_an_epoch_anchor_role_view_and_operation_share_a_stream(maker, object_set, streams):
    made, drawn = streams
    stream = SampleStream(0, STAGE, len(object_set), len(object_set))
    for lap in range(LAPS):
        samples = stream.batch(lap)
        maker.parameters(samples)
        for position in samples[0].positions:
            maker.cuts(lap, int(position))
    assert max(Counter(drawn).values()) == 1  # no (stream, anchor) is drawn from twice
    names = {key: path(made, key) for key, _ in drawn}
    assert len(set(names.values())) == len(names)
    operations = ("flip", "jitter", "order", "factors", "grayscale", "blur", "sigma", "solarise")
    for lap in range(LAPS):
        photometric = {
            (0, STAGE, lap, term, view, "augmentation", name)
            for term in TERMS
            for view in (1, 2)
            for name in operations
        }
        crops = {(0, STAGE, lap, "global", view, "crop") for view in (1, 2)}
        regions = {
            (0, STAGE, lap, *rest)
            for rest in (("intra", "roi"), ("intra", 2, "jitter"), ("inter", "neighbor"), ("inter", "pair"))
        }
        alone = {(0, STAGE, lap, "inter", "roi")}  # the region of an image without neighbours
        found = {name for name in names.values() if name[2] == lap}
        assert found == photometric | crops | regions | alone
    numbers = np.concatenate([draws.uniform(key, np.array([image]), 2)[0] for key, image in set(drawn)])
    assert len(np.unique(numbers)) == len(numbers)


def test_the_two_views_of_every_sample_differ_in_cuts_and_in_augmentation(maker, object_set):
    for position in range(len(object_set)):
        first, second = maker.cuts(0, position)["global"]
        assert not np.array_equal(first.box, second.box)
    for pair in maker.parameters(SampleStream(0, STAGE, 10, 10).batch(0)).values():
        assert (pair[0].factors != pair[1].factors).any(axis=1).all()


@pytest.mark.parametrize("ways", [{"threads": 1}, {"threads": 3}, {"processes": 1}, {"processes": 3}])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_neither_ranks_nor_loaders_change_a_draw(maker, object_set, ways, ranks):
    stream = SampleStream(0, STAGE, len(object_set), 6)
    steps = (0, 3)
    found = {}
    for rank in range(ranks):
        with closing(view_batches(maker, stream, [Share(step, rank, ranks) for step in steps], **ways)) as batches:
            for batch in batches:
                found.setdefault(batch.step, []).append(batch)
    for step in steps:
        samples = [(part.lap, int(position)) for part in stream.batch(step) for position in part.positions]
        parameters = maker.parameters(stream.batch(step))
        for term in TERMS:
            for view in (0, 1):
                images = np.concatenate([batch.images[term][view].permute(0, 2, 3, 1) for batch in found[step]])
                wanted = [maker.crops(*sample)[term][view] for sample in samples]
                np.testing.assert_array_equal(images, np.stack(wanted))
                drawn = np.concatenate([batch.parameters[term][view].factors for batch in found[step]])
                np.testing.assert_array_equal(drawn, parameters[term][view].factors)
