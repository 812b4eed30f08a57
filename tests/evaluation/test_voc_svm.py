"""The published VOC07 SVM against scikit-learn used directly, and the labels for which neither can be said."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from orl_ray.evaluation import voc_svm as module
from orl_ray.evaluation.voc_svm import COSTS, solver_seed, usable_classes, voc_svm

CLASSES = ("cat", "dog")


def problem(seed=0, signal=1.0, fitted=90, scored=45, width=16):
    generator = np.random.default_rng(seed)
    targets = (generator.random((fitted + scored, 2)) < 0.3).astype(np.int8)
    features = signal * targets @ generator.normal(size=(2, width)) + generator.normal(size=(fitted + scored, width))
    return features[:fitted], targets[:fitted], features[fitted:], targets[fitted:]


def envelope_area(scores, positives):
    """The published computation, image by image: precision made monotone from the right, summed over recall."""
    ranked = [positives[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])]
    recall, precision, hits = [0.0], [0.0], 0
    for place, hit in enumerate(ranked, start=1):
        hits += hit
        recall.append(hits / sum(positives))
        precision.append(hits / place)
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def test_there_are_19_costs():
    assert len(COSTS) == 19
    assert COSTS[:4] == (1, 10, 100, 0.0625)
    assert COSTS[-1] == 0.5**19


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_costs_scores_and_validation_equal_scikit_learn_used_directly():
    train, train_targets, test, test_targets = problem(seed=2, signal=0.4)
    train_targets[:6, 0], test_targets[:5, 0] = -1, -1
    result = voc_svm(train, train_targets, test, test_targets, CLASSES, seed=4)
    train = train / (np.linalg.norm(train, axis=1, keepdims=True) + 1e-5)
    test = test / (np.linalg.norm(test, axis=1, keepdims=True) + 1e-5)
    for column, name in enumerate(CLASSES):
        labels = np.where(train_targets[:, column] == 1, 1, -1)  # neither: a negative

        seeded = solver_seed(4, "voc_svm", name)

        def classifier(cost, random_state=seeded):
            return LinearSVC(C=cost, dual=True, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=random_state)

        means = []
        for cost in COSTS:
            folds = StratifiedKFold(3).split(train, labels)
            means.append(
                np.mean(
                    [
                        average_precision_score(
                            labels[scored],
                            classifier(cost).fit(train[fit], labels[fit]).decision_function(train[scored]),
                        )
                        for fit, scored in folds
                    ]
                )
            )
        best = int(np.argmax(means))
        found = result.classes[name]
        assert min(means) < means[best]
        assert found.cost == COSTS[best]
        assert found.validation == pytest.approx(means[best], abs=1e-12)
        known = test_targets[:, column] >= 0
        scores = classifier(COSTS[best]).fit(train, labels).decision_function(test[known])
        assert found.average_precision == pytest.approx(envelope_area(scores, test_targets[known, column]), abs=1e-12)
    assert result.mean_average_precision == pytest.approx(
        np.mean([of_class.average_precision for of_class in result.classes.values()])
    )


def test_features_that_are_the_labels_score_one():
    _, train_targets, _, test_targets = problem()
    train, test = (np.hstack([targets, 1 - targets]) for targets in (train_targets, test_targets))
    result = voc_svm(train, train_targets, test, test_targets, CLASSES, seed=0)
    assert result.mean_average_precision == 1.0


def test_features_without_signal_score_about_the_share_of_positives(monkeypatch):
    monkeypatch.setattr(module, "COSTS", (0.01, 0.1))
    values, shares = [], []
    for seed in range(8):
        train, train_targets, test, test_targets = problem(seed, signal=0.0, fitted=60, scored=300)
        values.append(voc_svm(train, train_targets, test, test_targets, CLASSES, seed=0).mean_average_precision)
        shares.append(test_targets.mean())
    assert np.mean(values) == pytest.approx(np.mean(shares), abs=0.06)  # the envelope lifts it by a few points


def test_images_for_which_neither_can_be_said_are_left_out_of_the_test():
    train, train_targets, test, test_targets = problem()
    part, of_part = test[10:], test_targets[10:]
    marked = test_targets.copy()
    marked[:10] = -1
    whole = voc_svm(train, train_targets, test, marked, CLASSES, seed=0)
    assert whole == voc_svm(train, train_targets, part, of_part, CLASSES, seed=0)


def test_processes_change_nothing():
    inputs = problem(fitted=30, scored=20)
    assert voc_svm(*inputs, CLASSES, seed=0, jobs=2) == voc_svm(*inputs, CLASSES, seed=0, jobs=1)


def test_a_class_with_two_positives_or_none_to_score_is_refused_and_told_unusable():
    train, train_targets, test, test_targets = problem()
    train_targets[:, 1] = np.arange(len(train)) < 2
    assert usable_classes(train_targets, test_targets).tolist() == [True, False]
    with pytest.raises(ValueError, match="'dog'"):
        voc_svm(train, train_targets, test, test_targets, CLASSES, seed=0)
    test_targets[:, 0] = 0
    assert usable_classes(train_targets, test_targets).tolist() == [False, False]


def test_labels_of_another_size_are_refused():
    train, train_targets, test, test_targets = problem()
    with pytest.raises(ValueError, match="labels"):
        voc_svm(train, train_targets[:-1], test, test_targets, CLASSES, seed=0)
