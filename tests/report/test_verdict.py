"""The verdict says what went wrong, what is shown, and what is not."""

import math
from dataclasses import replace

import pytest

from orl_ray.report.verdict import COLLAPSED_STD, LEAST_IMAGES_SEEN, LEAST_SCORED, conclude


def history(last_std=0.8, epochs=10, loss=1.0):
    return [
        {"step": 0, "epoch": 0.0, "loss": 2.0, "feature_std": 0.7},
        {"step": 500, "epoch": epochs, "loss": loss, "feature_std": last_std},
    ]


def sentences_with(words, sentences):
    return [sentence for sentence in sentences if words in sentence]


def test_features_that_stop_differing_are_called_collapsing_first_of_all(result):
    said = conclude(result, {"object_level": history(last_std=0.0001)}, 2000)
    assert "object-level representation is collapsing" in said[0]
    assert "spread 0.000 at the end, 0.700 at its highest" in said[0]
    assert "object_level.learning_rate" in said[0]


@pytest.mark.parametrize(("last", "collapsing"), [(COLLAPSED_STD, True), (COLLAPSED_STD * 1.5, False)])
def test_collapse_threshold_is_the_documented_one(result, last, collapsing):
    said = conclude(result, {"image_level": history(last_std=last)}, 2000)
    assert bool(sentences_with("is collapsing", said)) == collapsing
    assert bool(sentences_with("No sign of collapse", said)) != collapsing


def test_a_loss_that_is_no_number_is_reported_with_its_step(result):
    said = conclude(result, {"image_level": history(loss=math.nan)}, 2000)
    assert said[0] == "The image-level training broke: its loss stopped being a number at step 500."


def test_interval_without_zero_is_better_and_with_zero_inconclusive(result):
    said = conclude(result, {"object_level": history()}, 2000)
    knn, svm = sentences_with("object-level against image-level", said)
    assert knn.startswith("k-NN: object-level against image-level is better on these images")
    assert "+10.0 points of mAP, 95 % interval +2.0 to +40.0" in knn
    assert "inconclusive: the interval of the difference includes 0" in svm


def test_interval_below_zero_is_worse(result):
    worse = replace(result.differences[0], value=-0.1, low=-0.2, high=-0.05)
    said = conclude(replace(result, differences=(worse,)), {}, 2000)
    assert sentences_with("is worse on these images", said)


@pytest.mark.parametrize(("scored", "small"), [(LEAST_SCORED - 1, True), (LEAST_SCORED, False)])
def test_few_scored_images_are_too_small_to_conclude(result, scored, small):
    said = conclude(replace(result, scored_images=scored), {"object_level": history()}, 2000)
    assert bool(sentences_with("too small to conclude", said)) == small


@pytest.mark.parametrize(("images", "small"), [(LEAST_IMAGES_SEEN // 10 - 1, True), (LEAST_IMAGES_SEEN // 10, False)])
def test_short_training_is_too_small_to_conclude(result, images, small):
    said = conclude(result, {"object_level": history(epochs=10)}, images)
    assert bool(sentences_with("images seen in object-level training", said)) == small


def test_every_verdict_on_numbers_names_what_the_intervals_leave_out(result):
    assert "Another seed" in conclude(result, {"object_level": history()}, 2000)[-1]


def test_without_a_result_nothing_is_concluded():
    said = conclude(None, {"object_level": history()}, 2000)
    assert "nothing can be concluded" in said[0]
    assert not sentences_with("mAP", said)


def test_no_training_and_no_result_still_say_something():
    assert len(conclude(None, {}, 0)) == 1


def test_a_training_without_records_is_not_called_healthy(result):
    assert not sentences_with("No sign of collapse", conclude(result, {"object_level": []}, 2000))


def test_signs_of_a_collapse_in_the_history_come_first(result):
    losing = [{**entry, "effective_rank": 2.0, "dimensional_collapse": 1.0} for entry in history()]
    said = conclude(result, {"object_level": losing}, 2000)
    assert said[0].startswith("The object-level training looks bad. The features are losing dimensions")
    assert not sentences_with("No sign of collapse", said)
