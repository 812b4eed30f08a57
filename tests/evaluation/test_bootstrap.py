"""The paired bootstrap against a loop that draws and scores sample by sample."""

import numpy as np
import pytest

from orl_ray.evaluation import bootstrap
from orl_ray.evaluation.average_precision import average_precision
from orl_ray.evaluation.bootstrap import intervals, sample_weights


def problem(seed, images=60, classes=3, strengths=(("good", 2.0), ("bad", 0.2))):
    generator = np.random.default_rng(seed)
    present = generator.random((images, classes)) < 0.3
    present[:2] = [True] * classes
    noise = generator.normal(size=(images, classes))
    return {arm: strength * present + noise for arm, strength in strengths}, present


def literal_means(scores, present, samples):
    means = []
    for weights in sample_weights(0, np.arange(samples), len(present)).astype(int):
        rows = np.repeat(np.arange(len(present)), weights)
        values = [
            average_precision(scores[rows, c], present[rows, c])
            for c in range(present.shape[1])
            if present[rows, c].any()
        ]
        means.append(np.mean(values))
    return np.array(means)


def test_intervals_equal_the_literal_bootstrap():
    scores, present = problem(0)
    arms, differences = intervals(scores, present, [("good", "bad")], 50, 0)
    drawn = {arm: literal_means(scores[arm], present, 50) for arm in scores}
    for arm, interval in arms.items():
        low, high = np.quantile(drawn[arm], [0.025, 0.975])
        assert interval.value == pytest.approx(
            np.mean([average_precision(scores[arm][:, c], present[:, c]) for c in range(3)])
        )
        assert interval.low == pytest.approx(max(0.0, 2 * interval.value - high))
        assert interval.high == pytest.approx(min(1.0, 2 * interval.value - low))
    gap = differences["good", "bad"]
    low, high = np.quantile(drawn["good"] - drawn["bad"], [0.025, 0.975])
    assert gap.value == pytest.approx(arms["good"].value - arms["bad"].value)
    assert (gap.low, gap.high) == pytest.approx((2 * gap.value - high, 2 * gap.value - low))


def test_chunks_change_nothing(monkeypatch):
    scores, present = problem(1)
    whole = intervals(scores, present, [("good", "bad")], 100, 0)
    monkeypatch.setattr(bootstrap, "CHUNK_NUMBERS", 60 * 7)
    assert intervals(scores, present, [("good", "bad")], 100, 0) == whole


def test_a_clear_difference_excludes_zero_and_none_includes_it():
    scores, present = problem(2, images=120, strengths=(("good", 2.0), ("bad", 0.0), ("same", 2.0)))
    differences = intervals(scores, present, [("good", "bad"), ("good", "same")], 200, 0)[1]
    assert differences["good", "bad"].low > 0
    assert differences["good", "same"] == bootstrap.Interval(0.0, 0.0, 0.0)


def test_pairing_makes_differences_narrower_than_the_arms():
    generator = np.random.default_rng(3)
    scores, present = problem(3, strengths=(("one", 1.0),))
    scores["nudged"] = scores["one"] + 0.05 * generator.normal(size=present.shape)
    arms, differences = intervals(scores, present, [("one", "nudged")], 200, 0)
    assert differences["one", "nudged"].high - differences["one", "nudged"].low < 0.5 * (
        arms["one"].high - arms["one"].low
    )


def test_classes_that_a_sample_does_not_hold_are_left_out_of_it():
    scores, present = problem(4, images=30)
    present[:, 2] = np.arange(30) == 0  # about a third of all samples miss the only positive
    arms = intervals({"good": scores["good"]}, present, [], 60, 0)[0]
    low, high = np.quantile(literal_means(scores["good"], present, 60), [0.025, 0.975])
    assert arms["good"].low == pytest.approx(2 * arms["good"].value - high)
    assert arms["good"].high == pytest.approx(min(1.0, 2 * arms["good"].value - low))


def test_sample_weights_draw_as_many_images_as_there_are():
    weights = sample_weights(0, np.arange(40), 25)
    assert (weights.sum(axis=1) == 25).all()
    assert (weights >= 0).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(25), abs=0.6)


def test_a_sample_is_drawn_by_its_own_number():
    assert (sample_weights(0, np.arange(10), 25)[7] == sample_weights(0, np.array([7]), 25)[0]).all()
    assert (sample_weights(0, np.array([7]), 25) != sample_weights(1, np.array([7]), 25)).any()


def test_bootstrap_without_an_arm_is_refused():
    with pytest.raises(ValueError, match="no arm"):
        intervals({}, np.ones((3, 1), bool), [], 10, 0)
