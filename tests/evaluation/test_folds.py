"""Folds are keyed by group: what else is in the collection changes nothing, and no group lies in two folds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.evaluation.folds import stratified_folds, validation_fold

ids_lists = st.lists(st.integers(0, 2**60), min_size=1, max_size=60, unique=True)


@settings(deadline=None)
@given(ids_lists, st.integers(0, 1000))
def test_an_images_membership_never_depends_on_the_others(ids, seed):
    everyone = validation_fold(np.array(ids), seed, 0.3)
    alone = [bool(validation_fold(np.array([image_id]), seed, 0.3)[0]) for image_id in ids]
    assert everyone.tolist() == alone


def test_a_group_lies_in_one_fold():
    groups = np.arange(3000) // 3
    fold = validation_fold(groups, 0, 0.5)
    assert (fold[::3] == fold[1::3]).all()
    assert (fold[::3] == fold[2::3]).all()
    assert 0.4 < fold.mean() < 0.6


def test_validation_fold_has_about_the_wanted_size():
    share = validation_fold(np.arange(20_000), 0, 0.3).mean()
    assert share == pytest.approx(0.3, abs=0.015)


def test_larger_fraction_keeps_the_images_of_a_smaller_one():
    ids = np.arange(500)
    small, large = validation_fold(ids, 3, 0.2), validation_fold(ids, 3, 0.5)
    assert (large | ~small).all()
    assert large.sum() > small.sum()


def test_another_seed_draws_another_fold():
    ids = np.arange(500)
    assert (validation_fold(ids, 0, 0.5) != validation_fold(ids, 1, 0.5)).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_validation_fold_refuses_fractions_that_leave_a_side_empty(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        validation_fold(np.arange(3), 0, fraction)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(2, 5))
def test_stratified_folds_spread_images_and_positives_evenly(positives, folds):
    positives = np.array(positives)
    assigned = stratified_folds(np.arange(len(positives)), positives, folds, 0, "cat")
    sizes = np.bincount(assigned, minlength=folds)
    of_positives = np.bincount(assigned[positives], minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    assert of_positives.max() - of_positives.min() <= 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60), st.integers(2, 5))
def test_stratified_folds_spread_groups_and_keep_them_whole(rows, folds):
    groups, positives = np.array([group for group, _ in rows]), np.array([positive for _, positive in rows])
    assigned = stratified_folds(groups, positives, folds, 0, "cat")
    fold_of = dict(zip(groups.tolist(), assigned.tolist(), strict=True))
    assert assigned.tolist() == [fold_of[group] for group in groups.tolist()]
    for chosen in (fold_of.keys(), set(groups[positives].tolist())):
        sizes = np.bincount([fold_of[group] for group in chosen], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


def test_stratified_folds_do_not_depend_on_the_order_of_rows():
    ids, positives = np.arange(50) * 13, np.arange(50) % 7 == 0
    order = np.random.default_rng(0).permutation(50)
    direct = stratified_folds(ids, positives, 3, 0, "cat")
    shuffled = stratified_folds(ids[order], positives[order], 3, 0, "cat")
    assert (direct[order] == shuffled).all()


def test_stratified_folds_differ_from_class_to_class():
    ids, positives = np.arange(50), np.arange(50) % 2 == 0
    assert (stratified_folds(ids, positives, 3, 0, "cat") != stratified_folds(ids, positives, 3, 0, "dog")).any()
