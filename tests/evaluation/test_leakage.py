"""Test images that training has seen are found, directly or by way of other test images."""

import numpy as np

from orl_ray.config import NearDuplicates
from orl_ray.evaluation.leakage import seen_in_training
from orl_ray.scenes.near_duplicate_stage import Fingerprints

LIMITS = NearDuplicates(max_distance=4, max_colour_difference=10.0)


def prints(*hashes):
    """Return fingerprints whose ids are of no use: those of the splits may be the same."""
    count = len(hashes)
    flipped = np.array(hashes, np.uint64) ^ np.uint64(2**64 - 1)  # with many bits set, as photographs have
    return Fingerprints(np.zeros(count, np.int64), flipped, np.full((count, 192), 7, np.uint8))


def test_a_test_image_near_a_training_image_is_seen():
    seen = seen_in_training(prints(0b1111, 0xFF << 40), prints(0b11110000 << 20, 0b0111, 0xFE << 40), LIMITS)
    assert seen.tolist() == [False, True, True]


def test_a_test_image_that_is_linked_by_another_is_seen():
    assert seen_in_training(prints(0), prints(0xFF, 0xF), LIMITS).tolist() == [True, True]
    assert seen_in_training(prints(0), prints(0xFF, 0xFF0), LIMITS).tolist() == [False, False]


def test_near_duplicates_within_a_split_are_not_seen():
    assert seen_in_training(prints(0, 1), prints(0xFF << 30, 0xFE << 30), LIMITS).tolist() == [False, False]


def test_another_colour_is_another_image():
    test = prints(0)._replace(thumbnails=np.full((1, 192), 18, np.uint8))
    assert seen_in_training(prints(0), test, LIMITS).tolist() == [False]


def test_an_empty_side_gives_nothing():
    assert seen_in_training(prints(), prints(3, 3), LIMITS).tolist() == [False, False]
    assert seen_in_training(prints(3), prints(), LIMITS).tolist() == []
