"""The whole evaluation on made-up features: what is scored, what is compared, what is written down."""

import json
from dataclasses import replace

import numpy as np
import pytest

from orl_ray.config import Evaluation
from orl_ray.evaluation.average_precision import average_precision
from orl_ray.evaluation.knn import knn_scores, unit_rows
from orl_ray.evaluation.protocol import NothingToScoreError, describe, evaluate, protocol_hash
from orl_ray.evaluation.result import Difference, Result

SETTINGS = Evaluation(bootstrap=100, knn_k=10)
CLASSES = ("cat", "dog", "bus", "rare", "everywhere")


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    present = generator.random((160, 5)) < 0.3
    present[:, 3] = np.arange(160) == 0
    present[:, 4] = np.arange(160) > 0
    directions = generator.normal(size=(5, 16))
    features = {
        arm: (strength * present @ directions + generator.normal(size=(160, 16))).astype(np.float32)
        for arm, strength in (("untrained", 0.0), ("image_level", 0.4), ("object_level", 1.5))
    }
    fit = np.arange(160) % 2 == 0
    return {
        "features": features,
        "image_ids": np.arange(160) * 31 + 5,
        "group_ids": np.arange(160) * 31 + 5,
        "present": present,
        "classes": CLASSES,
        "fit_mask": fit,
        "score_mask": ~fit,
        "settings": SETTINGS,
        "seed": 0,
    }


@pytest.fixture(scope="module")
def result(problem):
    return evaluate(**problem)


def test_rows_cover_every_arm_and_metric_best_known_arm_first(result):
    assert [(row.metric, row.arm) for row in result.rows] == [
        (metric, arm) for metric in ("knn_map", "svm_map") for arm in ("object_level", "image_level", "untrained")
    ]


def test_rare_and_ubiquitous_classes_are_left_out_with_a_reason(result):
    assert result.classes == ("cat", "dog", "bus")
    assert "positives" in result.left_out["rare"]
    assert "negatives" in result.left_out["everywhere"]


def test_knn_row_equals_probe_and_metric_by_hand(problem, result):
    unit, fit = unit_rows(problem["features"]["object_level"]), problem["fit_mask"]
    scores = knn_scores(unit[fit], problem["present"][fit][:, :3], unit[~fit], 10, 0.07)
    expected = [average_precision(scores[:, c], problem["present"][~fit][:, c]) for c in range(3)]
    row = result.rows[0]
    assert list(row.per_class.values()) == pytest.approx(expected)
    assert row.value == pytest.approx(np.mean(expected))


def test_differences_are_of_the_rows_and_separate_a_good_arm_from_an_untrained_one(result):
    values = {(row.arm, row.metric): row.value for row in result.rows}
    assert len(result.differences) == 6
    for gap in result.differences:
        assert gap.value == pytest.approx(values[gap.arm, gap.metric] - values[gap.baseline, gap.metric])
    best = next(gap for gap in result.differences if (gap.arm, gap.baseline) == ("object_level", "untrained"))
    assert best.low > 0
    assert best.excludes_zero


def test_untrained_arm_is_near_the_prevalence_baseline(problem, result):
    truth = problem["present"][problem["score_mask"]][:, :3]
    assert result.prevalence == pytest.approx(truth.mean())
    untrained = next(row for row in result.rows if row.arm == "untrained")
    assert abs(untrained.value - result.prevalence) < 0.15
    assert result.positives == dict(zip(CLASSES[:3], truth.sum(axis=0).tolist(), strict=True))


def test_order_of_rows_changes_nothing(problem, result):
    order = np.random.default_rng(1).permutation(160)
    shuffled = {
        **problem,
        "features": {arm: vectors[order] for arm, vectors in problem["features"].items()},
        **{name: problem[name][order] for name in ("image_ids", "group_ids", "present", "fit_mask", "score_mask")},
    }
    assert evaluate(**shuffled) == result


def test_images_outside_both_masks_play_no_part(problem, result):
    more = {arm: np.concatenate([vectors, 99 + vectors[:3]]) for arm, vectors in problem["features"].items()}
    padded = {
        **problem,
        "features": more,
        "image_ids": np.concatenate([problem["image_ids"], [1, 2, 3]]),
        "group_ids": np.concatenate([problem["group_ids"], [5, 5, 36]]),
        "present": np.concatenate([problem["present"], np.ones((3, 5), bool)]),
        "fit_mask": np.append(problem["fit_mask"], [False] * 3),
        "score_mask": np.append(problem["score_mask"], [False] * 3),
    }
    assert evaluate(**padded) == result


def test_result_survives_json(result):
    assert Result.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_json_of_another_version_is_refused(result):
    plain = result.to_json()
    del plain["prevalence"]
    with pytest.raises(ValueError, match="run the evaluation again"):
        Result.from_json(plain)


def test_protocol_hash_moves_with_every_setting_and_the_seed():
    variants = [
        describe(SETTINGS, 0),
        describe(SETTINGS, 1),
        describe(replace(SETTINGS, knn_k=11), 0),
        describe(replace(SETTINGS, bootstrap=101), 0),
        describe(replace(SETTINGS, split="test"), 0),
    ]
    assert len({protocol_hash(variant) for variant in variants}) == len(variants)


def test_protocol_hash_ignores_the_order_of_entries():
    protocol = describe(SETTINGS, 0)
    assert protocol_hash(dict(reversed(protocol.items()))) == protocol_hash(protocol)


def test_no_class_with_enough_images_is_said_in_words(problem):
    with pytest.raises(NothingToScoreError, match=r"no class has enough images.*cat: .*min_positives"):
        evaluate(**{**problem, "settings": replace(SETTINGS, min_positives=81)})


def test_fewer_fitted_images_than_neighbours_is_said_in_words(problem):
    with pytest.raises(NothingToScoreError, match=r"80 images to fit on.*knn_k"):
        evaluate(**{**problem, "settings": replace(SETTINGS, knn_k=81)})


def test_no_scored_image_is_said_in_words(problem):
    with pytest.raises(NothingToScoreError, match="0 positives among the scored"):
        evaluate(**{**problem, "score_mask": np.zeros(160, bool)})


def test_overlapping_masks_are_refused(problem):
    with pytest.raises(ValueError, match="both fitted on and scored"):
        evaluate(**{**problem, "score_mask": np.ones(160, bool)})


def test_broken_features_are_refused_with_the_name_of_the_arm(problem):
    broken = problem["features"]["image_level"].copy()
    broken[4, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 images have NaN.*'image_level'"):
        evaluate(**{**problem, "features": {"image_level": broken}})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("features", {}, "no features"),
        ("features", {"a": np.zeros((3, 2), np.float32)}, "expected"),
        ("image_ids", np.zeros(160, np.int64), "repeat"),
        ("classes", CLASSES[:4], "4 classes"),
        ("fit_mask", np.zeros(3, bool), "masks"),
        ("group_ids", np.zeros(3, np.int64), "groups"),
        ("group_ids", np.arange(160) // 2, "images of group 0 are fitted on and others of it scored"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(problem, name, value, words):
    with pytest.raises(ValueError, match=words):
        evaluate(**{**problem, name: value})


def test_difference_excludes_zero_only_when_the_interval_lies_on_one_side():
    assert Difference("a", "b", "knn_map", -0.2, -0.3, -0.1).excludes_zero
    assert not Difference("a", "b", "knn_map", 0.1, -0.01, 0.2).excludes_zero
    assert not Difference("a", "b", "knn_map", 0.1, 0.0, 0.2).excludes_zero
