"""Test images that training has seen: near-duplicates of ingested images say nothing about others."""

import numpy as np
from numpy.typing import NDArray

from orl_ray.config import NearDuplicates
from orl_ray.scenes.near_duplicate_stage import Fingerprints
from orl_ray.scenes.near_duplicates import group_near_duplicates


def seen_in_training(train: Fingerprints, test: Fingerprints, limits: NearDuplicates) -> NDArray[np.bool_]:
    """Say which test images share a group of near-duplicates with a training image.

    Args:
        train: fingerprints of the ingested images.
        test: fingerprints of n test images.
        limits: what counts as a near-duplicate.

    Returns:
        (n,) bool. A test image that is only linked to training through other test images counts, too.
    """
    known, total = len(train.image_ids), len(train.image_ids) + len(test.image_ids)
    # Positions instead of ids: training comes first, so a group's smallest member tells whether training is in it.
    members, groups = group_near_duplicates(
        np.arange(total),
        np.concatenate([train.hashes, test.hashes]),
        np.concatenate([train.thumbnails, test.thumbnails]),
        limits.max_distance,
        limits.max_colour_difference,
    )
    seen = np.zeros(total, dtype=np.bool_)
    seen[members[groups < known]] = True
    return seen[known:]
