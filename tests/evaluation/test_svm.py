"""The SVM probe against scikit-learn used directly, and the choice of the cost."""

import warnings

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from orl_ray import draws
from orl_ray.evaluation import svm
from orl_ray.evaluation.average_precision import average_precision
from orl_ray.evaluation.folds import stratified_folds
from orl_ray.evaluation.svm import svm_scores

CLASSES = ("cat", "dog")


def problem(seed, signal=1.0, fitted=90, queries=30, width=24):
    generator = np.random.default_rng(seed)
    present = generator.random((fitted + queries, 2)) < 0.3
    vectors = signal * present @ generator.normal(size=(2, width)) + generator.normal(size=(fitted + queries, width))
    return vectors[:fitted], present[:fitted], vectors[fitted:], present[fitted:]


def fit_and_score(fit, present, queries):
    ids = np.arange(len(fit))
    return svm_scores(fit, present, queries, fit_ids=ids, fit_groups=ids, classes=CLASSES, seed=0)


def test_scores_and_costs_equal_scikit_learn_used_directly():
    fit, present, queries, _ = problem(5, signal=0.3)
    result = fit_and_score(fit, present, queries)
    fit = fit / (np.linalg.norm(fit, axis=1, keepdims=True) + 1e-5)
    queries = queries / (np.linalg.norm(queries, axis=1, keepdims=True) + 1e-5)
    for column, name in enumerate(CLASSES):
        labels = np.where(present[:, column], 1, -1)
        folds = stratified_folds(np.arange(len(fit)), present[:, column], 3, 0, name)
        random_state = draws.stream(0, "evaluation", "svm", name) % 2**31

        def classifier(cost, random_state=random_state):
            return LinearSVC(C=cost, dual=True, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=random_state)

        by_cost = {}
        for cost in (0.01, 0.1, 1.0, 10.0):
            by_cost[cost] = np.mean(
                [
                    average_precision(
                        classifier(cost).fit(fit[folds != f], labels[folds != f]).decision_function(fit[folds == f]),
                        present[folds == f, column],
                    )
                    for f in range(3)
                ]
            )
        best = max(by_cost, key=by_cost.get)
        # The made-up data are chosen so that neither the first cost nor the worst is the best: a wrong choice shows.
        assert min(by_cost.values()) < by_cost[svm.COSTS[0]] < by_cost[best]
        assert result.costs[column] == best
        np.testing.assert_allclose(
            result.scores[:, column], classifier(best).fit(fit, labels).decision_function(queries)
        )


def test_signal_is_found_and_noise_is_not():
    fit, present, queries, truth = problem(1, signal=2.0)
    found = average_precision(fit_and_score(fit, present, queries).scores[:, 0], truth[:, 0])
    noise = np.random.default_rng(5).normal(size=(120, 24))
    missed = average_precision(fit_and_score(noise[:90], present, noise[90:]).scores[:, 0], truth[:, 0])
    assert found > 0.9
    assert missed < 0.7


def test_scored_images_play_no_part_in_the_cost_or_the_fit():
    fit, present, queries, _ = problem(2)
    both, one = fit_and_score(fit, present, queries), fit_and_score(fit, present, queries[:1])
    assert (both.costs == one.costs).all()
    np.testing.assert_allclose(both.scores[:1], one.scores)


def test_two_runs_agree_to_the_bit():
    fit, present, queries, _ = problem(3)
    assert (fit_and_score(fit, present, queries).scores == fit_and_score(fit, present, queries).scores).all()


def test_length_of_features_does_not_matter():
    fit, present, queries, _ = problem(4)
    stretch = np.linspace(0.5, 20, len(fit))[:, None]
    np.testing.assert_allclose(
        fit_and_score(fit * stretch, present, queries).scores, fit_and_score(fit, present, queries).scores, atol=1e-3
    )


def test_equal_costs_in_cross_validation_go_to_the_smallest():
    present = np.arange(40)[:, None] % 2 == np.array([0, 1])
    fit = np.where(present[:, :1], 1.0, -1.0) * np.ones((40, 3))  # separable: every cost ranks perfectly
    assert (fit_and_score(fit, present, fit).costs == svm.COSTS[0]).all()


def test_class_with_two_positives_is_fitted():
    fit, present, queries, _ = problem(5)
    present[:, 0] = False
    present[[3, 60], 0] = True
    assert np.isfinite(fit_and_score(fit, present, queries).scores).all()


@pytest.mark.parametrize("members", [1, 89])
def test_class_without_two_of_each_side_is_refused_by_name(members):
    fit, present, queries, _ = problem(6)
    present[:, 1] = np.arange(90) < members
    with pytest.raises(ValueError, match="'dog'"):
        fit_and_score(fit, present, queries)


def test_classifiers_that_stop_at_the_limit_are_counted_and_do_not_warn(monkeypatch):
    monkeypatch.setattr(svm, "MAX_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_and_score(*problem(7)[:3]).unconverged == 2


def test_near_duplicates_do_not_choose_the_cost(monkeypatch):
    fit, present, queries, _ = problem(5, signal=0.3)
    seen, best_cost = [], svm._best_cost

    def watched(vectors, positives, folds, solver_seed):
        seen.append(folds)
        return best_cost(vectors, positives, folds, solver_seed)

    monkeypatch.setattr(svm, "_best_cost", watched)
    copies, ids = np.repeat(np.arange(len(fit)), 2), np.arange(2 * len(fit))
    svm_scores(fit[copies], present[copies], queries, fit_ids=ids, fit_groups=copies * 2, classes=CLASSES, seed=0)
    for folds in seen:
        assert (folds[::2] == folds[1::2]).all()
        assert set(folds) == {0, 1, 2}


@pytest.mark.parametrize("positives_lie_in_one_group", [True, False])
def test_a_class_within_one_group_is_still_fitted(positives_lie_in_one_group):
    fit, _, queries, _ = problem(5)
    present = np.tile((np.arange(len(fit)) < 4) == positives_lie_in_one_group, (2, 1)).T
    groups = np.maximum(np.arange(len(fit)), 4)
    ids = np.arange(len(fit))
    found = svm_scores(fit, present, queries, fit_ids=ids, fit_groups=groups, classes=CLASSES, seed=0)
    assert np.isfinite(found.scores).all()
