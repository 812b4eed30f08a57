"""Low-shot SVMs: what a sample holds, and what each way of choosing the cost may look at."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from orl_ray import draws
from orl_ray.evaluation import low_shot as module
from orl_ray.evaluation.low_shot import low_shot, sample
from orl_ray.evaluation.voc_svm import COSTS, score_known, solver_seed

CLASSES = ("cat", "dog", "cow")


def problem(seed=0, signal=0.8, fitted=80, scored=50, width=12):
    generator = np.random.default_rng(seed)
    targets = (generator.random((fitted + scored, 3)) < 0.3).astype(np.int8)
    features = signal * targets @ generator.normal(size=(3, width)) + generator.normal(size=(fitted + scored, width))
    return features[:fitted], targets[:fitted], features[fitted:], targets[fitted:]


def test_a_sample_holds_k_positives_and_a_multiple_of_negatives_and_nothing_unknown():
    targets = np.array([1] * 9 + [0] * 60 + [-1] * 20, dtype=np.int8)
    for key in range(20):
        chosen = sample(targets, 3, 20, key)
        assert chosen[targets == 1].sum() == 3
        assert chosen[targets == 0].sum() == 57
        assert not chosen[targets == -1].any()
    first, again, other = (sample(targets, 3, 20, key) for key in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_scores_equal_scikit_learn_used_directly_and_the_ways_choose_as_they_say():
    train, train_targets, test, test_targets = problem(signal=0.5, fitted=60, scored=30)
    train_targets[:4, 1], test_targets[:4, 1] = -1, -1
    (found,) = low_shot(train, train_targets, test, test_targets, CLASSES, seed=6, shots=(2,))
    train = train / (np.linalg.norm(train, axis=1, keepdims=True) + 1e-5)
    test = test / (np.linalg.norm(test, axis=1, keepdims=True) + 1e-5)
    on_test = np.empty((5, len(COSTS), 3))
    on_rest = np.empty((5, len(COSTS), 3))
    for number in range(5):
        for column, name in enumerate(CLASSES):
            key = draws.stream(6, "evaluation", "low_shot", name, 2, number)
            chosen = sample(train_targets[:, column], 2, 3, key)
            rest = ~chosen & (train_targets[:, column] >= 0)
            for place, cost in enumerate(COSTS):
                seeded = solver_seed(6, "low_shot", name, 2, number)
                classifier = LinearSVC(
                    C=cost, dual=True, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=seeded
                ).fit(train[chosen], np.where(train_targets[chosen, column] == 1, 1, -1))
                on_test[number, place, column] = score_known(
                    classifier.decision_function(test), test_targets[:, column]
                )
                on_rest[number, place, column] = score_known(
                    classifier.decision_function(train[rest]), train_targets[rest, column]
                )
    by_test, by_rest = on_test.mean(axis=(0, 2)), on_rest.mean(axis=(0, 2))
    assert np.argmax(by_test) != np.argmax(by_rest)  # else the two ways could not be told apart here
    assert found.published.cost == COSTS[int(np.argmax(by_test))]
    assert found.ours.cost == COSTS[int(np.argmax(by_rest))]
    np.testing.assert_allclose(found.published.by_sample, on_test[:, np.argmax(by_test)].mean(axis=1))
    np.testing.assert_allclose(found.ours.by_sample, on_test[:, np.argmax(by_rest)].mean(axis=1))


def test_the_published_choice_is_never_below_ours():
    for seed in range(2):
        for found in low_shot(*problem(seed, fitted=70, scored=25), CLASSES, seed=0, shots=(1, 4)):
            assert np.mean(found.published.by_sample) >= np.mean(found.ours.by_sample)


def test_test_images_play_no_part_in_our_choice():
    train, train_targets, test, test_targets = problem()
    (found,) = low_shot(train, train_targets, test, test_targets, CLASSES, seed=0, shots=(3,))
    generator = np.random.default_rng(0)
    scrambled = test_targets[generator.permutation(len(test))]
    (other,) = low_shot(train, train_targets, test, scrambled, CLASSES, seed=0, shots=(3,))
    assert found.ours.cost == other.ours.cost
    assert found.ours.by_sample != other.ours.by_sample


def test_features_that_are_the_labels_score_one_with_a_single_shot():
    train_targets, test_targets = (np.eye(3, dtype=np.int8)[np.arange(count) % 3] for count in (30, 12))
    (found,) = low_shot(
        train_targets + 0.0, train_targets, test_targets + 0.0, test_targets, CLASSES, seed=0, shots=(1,)
    )
    assert found.ours.by_sample == found.published.by_sample == (1.0,) * 5


def test_mean_and_spread_are_those_of_the_samples():
    chosen = module.Chosen(1.0, (0.1, 0.2, 0.3, 0.4, 0.5))
    assert chosen.to_json() == {
        "cost": 1.0,
        "by_sample": [0.1, 0.2, 0.3, 0.4, 0.5],
        "mean": pytest.approx(0.3),
        "min": 0.1,
        "max": 0.5,
        "std": pytest.approx(np.sqrt(0.02)),
    }


def test_a_sample_larger_than_the_class_is_refused_by_name():
    train, train_targets, test, test_targets = problem()
    train_targets[:, 2] = np.arange(len(train)) < 5
    with pytest.raises(ValueError, match=r"'cow' has 5 positives.*fewer shots"):
        low_shot(train, train_targets, test, test_targets, CLASSES, seed=0, shots=(1, 6))


def test_nothing_left_to_choose_on_is_refused():
    targets = np.zeros((60, 3), dtype=np.int8)
    for column in range(3):
        targets[4 * column : 4 * column + 4, column] = 1
    features = np.random.default_rng(0).normal(size=(60, 6))
    with pytest.raises(ValueError, match="4 shots: no class has a positive outside"):
        low_shot(features, targets, features, targets, CLASSES, seed=0, shots=(4,))
