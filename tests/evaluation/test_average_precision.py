"""Interpolated average precision against literal references and against what a ranking must give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve

from orl_ray.evaluation.average_precision import average_precision, mean_average_precision, weighted_average_precision


def voc_reference(scores, positives):
    """PASCAL VOC devkit (2010 on), literally: one threshold an image, sum where recall moves."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positives[order])
    recall = hits / positives.sum()
    precision = hits / np.arange(1, len(scores) + 1)
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    moved = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[moved + 1] - recall[moved]) * precision[moved + 1]))


def rankings(levels):
    """Scores on a grid of ``levels`` values (few values: many ties) with at least one positive."""
    row = st.tuples(st.integers(0, levels), st.booleans())
    return (
        st.lists(row, min_size=1, max_size=40)
        .filter(lambda rows: any(positive for _, positive in rows))
        .map(lambda rows: (np.array([s for s, _ in rows], float), np.array([p for _, p in rows], bool)))
    )


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_equals_the_voc_devkit_when_scores_are_distinct(seed):
    generator = np.random.default_rng(seed)
    positives = generator.random(60) < 0.2
    positives[0] = True
    scores = generator.permutation(60) + positives * generator.normal(10, 5)
    assert average_precision(scores, positives) == pytest.approx(voc_reference(scores, positives), abs=1e-12)


@settings(deadline=None)
@given(rankings(4))
def test_average_precision_with_ties_is_the_envelope_of_scikit_learns_curve(ranking):
    scores, positives = ranking
    precision, recall, _ = precision_recall_curve(
        positives, scores
    )  # recall falls along the arrays, ties are one threshold
    envelope = np.maximum.accumulate(precision)  # from high recall to low: the monotone envelope
    expected = np.sum((recall[:-1] - recall[1:]) * envelope[:-1])
    assert average_precision(scores, positives) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(rankings(4), st.randoms(use_true_random=False))
def test_average_precision_does_not_depend_on_the_order_of_rows(ranking, random):
    scores, positives = ranking
    order = list(range(len(scores)))
    random.shuffle(order)
    assert average_precision(scores[order], positives[order]) == average_precision(scores, positives)


@settings(deadline=None)
@given(rankings(30))
def test_interpolation_never_lowers_the_average_precision(ranking):
    scores, positives = ranking
    assert average_precision(scores, positives) >= average_precision_score(positives, scores) - 1e-12


def test_hand_worked_ranking_takes_the_later_higher_precision():
    positives = np.array([False, True, True, False, True])
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    # precision at the hits: 1/2, 2/3, 3/5; envelope: 2/3, 2/3, 3/5
    assert average_precision(scores, positives) == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 3)


def test_perfect_ranking_scores_one():
    assert average_precision(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False])) == 1.0


def test_constant_scorer_gets_the_share_of_positives():
    positives = np.array([True, False, False, True, False])
    assert average_precision(np.zeros(5), positives) == pytest.approx(0.4)


@settings(deadline=None)
@given(rankings(6), st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_weights_equal_repeating_the_images(ranking, counts):
    scores, positives = ranking
    repeats = np.array(counts[: len(scores)])
    weighted = weighted_average_precision(scores, positives, repeats[None].astype(float))[0]
    if not (repeats * positives).any():
        assert np.isnan(weighted)
        return
    assert weighted == pytest.approx(average_precision(np.repeat(scores, repeats), np.repeat(positives, repeats)))


def test_average_precision_refuses_a_class_without_positives():
    with pytest.raises(ValueError, match="at least one positive"):
        average_precision(np.arange(3.0), np.zeros(3, bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_average_precision_refuses_scores_that_are_not_finite(bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        average_precision(np.array([1.0, bad]), np.array([True, False]))


def test_average_precision_refuses_lengths_that_differ():
    with pytest.raises(ValueError, match="scores"):
        weighted_average_precision(np.zeros(3), np.ones(3, bool), np.ones((1, 4)))


def test_mean_average_precision_averages_the_scored_classes_only():
    scores = np.array([[3.0, 0.0, 1.0], [2.0, 0.0, 2.0], [1.0, 0.0, 3.0]])
    present = np.array([[True, False, True], [False, False, False], [False, False, False]])
    mean, per_class = mean_average_precision(scores, present, np.array([True, False, True]))
    assert mean == pytest.approx((1.0 + 1 / 3) / 2)
    np.testing.assert_allclose(per_class, [1.0, np.nan, 1 / 3])


def test_mean_average_precision_refuses_an_empty_list_of_classes():
    with pytest.raises(ValueError, match="no class"):
        mean_average_precision(np.zeros((2, 1)), np.ones((2, 1), bool), np.array([False]))


def test_mean_average_precision_refuses_shapes_that_disagree():
    with pytest.raises(ValueError, match="classes"):
        mean_average_precision(np.zeros((2, 2)), np.ones((2, 2), bool), np.array([True]))
