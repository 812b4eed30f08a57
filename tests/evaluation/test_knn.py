"""Multi-label k-NN against a literal loop, and its limits."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from orl_ray.evaluation import knn
from orl_ray.evaluation.average_precision import average_precision
from orl_ray.evaluation.knn import knn_scores, unit_rows


def problem(seed, fitted=40, queries=9, width=6, classes=3):
    generator = np.random.default_rng(seed)
    fit = unit_rows(generator.normal(size=(fitted, width)))
    present = generator.random((fitted, classes)) < 0.3
    return fit, present, unit_rows(generator.normal(size=(queries, width)))


def literal_scores(fit, present, queries, k, temperature):
    scores = []
    for query in queries:
        similarities = [float(np.dot(query, row)) for row in fit]
        nearest = sorted(range(len(fit)), key=lambda row: (-similarities[row], row))[:k]
        weights = [math.exp(similarities[row] / temperature) for row in nearest]
        scores.append(
            [
                sum(w for w, row in zip(weights, nearest, strict=True) if present[row, c]) / sum(weights)
                for c in range(present.shape[1])
            ]
        )
    return np.array(scores)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_scores_equal_the_literal_definition(k):
    fit, present, queries = problem(0)
    np.testing.assert_allclose(
        knn_scores(fit, present, queries, k, 0.07), literal_scores(fit, present, queries, k, 0.07), atol=1e-12
    )


def test_chunks_change_nothing(monkeypatch):
    fit, present, queries = problem(1, queries=11)
    whole = knn_scores(fit, present, queries, 5, 0.07)
    monkeypatch.setattr(knn, "CHUNK", 3)
    np.testing.assert_allclose(knn_scores(fit, present, queries, 5, 0.07), whole, atol=1e-12)


def test_one_neighbour_copies_the_labels_of_the_nearest_image():
    fit, present, _ = problem(2)
    assert (knn_scores(fit, present, fit, 1, 0.07) == present).all()


def test_equal_similarities_take_the_first_rows():
    fit = np.tile([[1.0, 0.0]], (3, 1))
    present = np.array([[True], [False], [False]])
    assert knn_scores(fit, present, fit[:1], 1, 0.07).item() == 1.0
    assert knn_scores(fit, present[::-1], fit[:1], 2, 0.07).item() == 0.0


def test_tiny_temperature_neither_overflows_nor_loses_the_nearest():
    fit, present, queries = problem(3)
    scores = knn_scores(fit, present, queries, 10, 1e-4)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, knn_scores(fit, present, queries, 1, 0.07), atol=1e-3)


def test_high_temperature_counts_neighbours():
    fit, present, queries = problem(4)
    np.testing.assert_allclose(
        knn_scores(fit, present, queries, 40, 1e6), np.tile(present.mean(axis=0), (9, 1)), atol=1e-5
    )


@pytest.mark.parametrize("k", [0, 41])
def test_k_outside_the_fitted_images_is_refused(k):
    with pytest.raises(ValueError, match="knn_k"):
        knn_scores(*problem(0), k, 0.07)


def test_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        knn_scores(*problem(0), 5, 0.0)


def test_vectors_of_another_width_are_refused():
    fit, present, queries = problem(0)
    with pytest.raises(ValueError, match="do not go together"):
        knn_scores(fit, present, queries[:, :4], 5, 0.07)


def test_unit_rows_have_length_one_and_zero_rows_stay_zero():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]])


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (40, 0.5)])
def test_scores_equal_scikit_learns_weighted_neighbours(k, temperature):
    fit, present, queries = problem(5)
    neighbours = KNeighborsClassifier(
        k, algorithm="brute", metric="cosine", weights=lambda distances: np.exp((1 - distances) / temperature)
    ).fit(fit, present.astype(int))
    shares = np.stack([classes[:, 1] for classes in neighbours.predict_proba(queries)], axis=1)
    np.testing.assert_allclose(knn_scores(fit, present, queries, k, temperature), shares, atol=1e-9)


def test_vectors_without_signal_score_the_share_of_positives_and_perfect_ones_score_one():
    generator = np.random.default_rng(0)
    present = generator.random((400, 3)) < 0.25
    blind = knn_scores(np.ones((300, 4)), present[:300], np.ones((100, 4)), 300, 0.07)
    perfect = unit_rows(np.hstack([present, ~present]).astype(float))
    seeing = knn_scores(perfect[:300], present[:300], perfect[300:], 20, 0.07)
    for column in range(3):
        truth = present[300:, column]
        assert average_precision(blind[:, column], truth) == pytest.approx(truth.mean())
        assert average_precision(seeing[:, column], truth) == 1.0
