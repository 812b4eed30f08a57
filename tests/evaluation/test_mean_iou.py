"""Mean IoU: against numbers counted by hand, and against sets of pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.evaluation.bootstrap import sample_weights
from orl_ray.evaluation.mean_iou import (
    IGNORE,
    Overlaps,
    bootstrap_mean_iou,
    class_iou,
    mean_iou,
    overlap,
    pixel_accuracy,
)

X = IGNORE
TRUE = np.array([[0, 0, 1, 1], [0, 0, 1, X], [2, 2, 2, X]], np.uint8)
SAID = np.array([[0, 1, 1, 1], [0, 0, 0, 3], [2, 2, 1, 0]], np.uint8)


def together(*pairs, classes=4):
    rows = [overlap(said, true, classes) for said, true in pairs]
    return Overlaps(np.concatenate([row.both for row in rows]), np.concatenate([row.either for row in rows]))


def test_counted_by_hand():
    # 0: true 4, said 4, both 3 -> 3/5. 1: true 3, said 4, both 2 -> 2/5. 2: true 3, said 2, both 2 -> 2/3. 3: nowhere.
    found = together((SAID, TRUE))
    np.testing.assert_allclose(class_iou(found), [3 / 5, 2 / 5, 2 / 3, np.nan])
    assert mean_iou(found) == pytest.approx((3 / 5 + 2 / 5 + 2 / 3) / 3)
    assert pixel_accuracy(found) == pytest.approx(7 / 10)


def test_pixels_of_all_images_are_summed_before_the_ratio():
    second = np.full((2, 5), 1, np.uint8)
    found = together((SAID, TRUE), (second, second))
    assert class_iou(found)[1] == pytest.approx((2 + 10) / (5 + 10))


def test_perfect_and_wrong_everywhere():
    assert mean_iou(together((np.where(TRUE == X, 0, TRUE).astype(np.uint8), TRUE))) == 1.0
    assert mean_iou(together(((np.where(TRUE == X, 0, TRUE) + 1).astype(np.uint8), TRUE))) == 0.0


def test_nothing_but_ignored_pixels_is_no_score():
    found = together((SAID, np.full_like(TRUE, X)))
    assert np.isnan(mean_iou(found))
    assert np.isnan(pixel_accuracy(found))


def test_what_is_no_class_or_no_shape_of_the_labels_is_refused():
    with pytest.raises(ValueError, match="class 7 of a label map is not one of 4"):
        overlap(SAID, np.full_like(TRUE, 7), 4)
    with pytest.raises(ValueError, match="predicted"):
        overlap(SAID[:2], TRUE, 4)


MAPS = st.lists(st.lists(st.sampled_from([0, 1, 2, 3, X]), min_size=6, max_size=6), min_size=1, max_size=4)


@given(MAPS, st.randoms(use_true_random=False))
def test_equals_sets_of_pixels(true_images, random):
    pairs = [
        (np.array([[random.randrange(4) for _ in row]], np.uint8), np.array([row], np.uint8)) for row in true_images
    ]
    found = class_iou(together(*pairs))
    for number in range(4):
        true, said = set(), set()
        for image, (predicted, labels) in enumerate(pairs):
            known = [at for at in range(6) if labels[0, at] != X]
            true |= {(image, at) for at in known if labels[0, at] == number}
            said |= {(image, at) for at in known if predicted[0, at] == number}
        wanted = len(true & said) / len(true | said) if true | said else np.nan
        np.testing.assert_allclose(found[number], wanted)


def test_the_bootstrap_scores_the_images_that_it_drew():
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(0, 3, (2, 4, 4)).astype(np.uint8)) for _ in range(7)]
    drawn = bootstrap_mean_iou(together(*pairs), 20, 5)
    weights = sample_weights(5, np.arange(20), 7)
    for sample, counts in enumerate(weights.astype(int)):
        images = [pairs[image] for image in range(7) for _ in range(counts[image])]
        assert drawn[sample] == pytest.approx(mean_iou(together(*images)))
    assert drawn.std() > 0
