"""When a history shows a collapse, and what is said about it."""

import pytest

from orl_ray.pretraining.collapse import SIGNS, signs, warnings

TOTAL, DIMENSIONAL = SIGNS


def history(values, measure="feature_std"):
    return [{"step": step, "epoch": step / 10, "loss": 1.0, measure: value} for step, value in enumerate(values, 1)]


def told(values, measure="feature_std", warmup=0):
    """Go through a training; return its whole history, with the signs that it shows at each step."""
    entries = []
    for entry in history(values, measure):
        entries.append(entry | signs([*entries, entry], warmup))
    return entries


def steps_with(sign, entries):
    return [entry["step"] for entry in entries if sign.name in entry]


@pytest.mark.parametrize("sign", SIGNS, ids=lambda sign: sign.name)
def test_three_low_measurements_in_a_row_are_a_sign(sign):
    low, fair = 2 * sign.limit * 0.9, 2 * sign.limit * 1.1
    entries = told([2.0, fair, low, low, fair, low, low, low, low, fair], sign.measure)
    assert steps_with(sign, entries) == [8, 9]
    assert all(set(SIGNS) - {sign} for entry in entries if sign.name in entry)


def test_low_is_relative_to_the_first_measurement():
    assert steps_with(TOTAL, told([0.04] * 6)) == []
    assert steps_with(TOTAL, told([0.9, *[0.04] * 5])) == [4, 5, 6]


def test_nothing_is_told_in_the_warm_up():
    assert steps_with(TOTAL, told([0.9, *[0.01] * 7], warmup=4.5)) == [7, 8]


def test_steps_that_did_not_measure_it_neither_show_it_nor_end_it():
    entries = told([0.9, 0.01, 0.01, 0.01])
    entries.insert(2, {"step": 2.5, "loss": 1.0})
    assert signs(entries[:3], 0) == {}
    assert signs(entries, 0) == {TOTAL.name: 1.0}


def test_a_history_that_begins_late_or_is_empty_is_no_error():
    assert signs(history([0.9]), 0) == {}
    assert warnings("image_level", []) == {}


def test_words_name_the_numbers_the_step_and_the_settings_of_the_stage():
    (text,) = warnings("object_level", told([0.9, *[0.02] * 4])).values()
    assert text.startswith("The features are collapsing: they hardly differ from image to image")
    assert "(feature std 0.02 where it was 0.9 at initialisation, from step 4 on)" in text
    assert "object_level.learning_rate" in text
    assert "over by step" not in text


def test_words_say_that_a_collapse_has_passed():
    (text,) = warnings("image_level", told([0.9, *[0.02] * 4, 0.8, 0.8])).values()
    assert "It was over by step 7." in text


def test_a_healthy_training_is_not_spoken_of():
    assert warnings("image_level", told([0.9, 0.8, 0.6, 0.5, 0.5, 0.6])) == {}
