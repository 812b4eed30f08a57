"""Which images are held out, drawn by group: neither their order nor the number of workers plays a part.

A group is named by an image id, and most images are groups of their own. Near-duplicates share one, so that no fold
holds what another was fitted on.
"""

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws


def validation_fold(group_ids: NDArray[np.int64], seed: int, fraction: float) -> NDArray[np.bool_]:
    """Say which images belong to the validation fold.

    Each group is drawn by its own id, so its membership never depends on the other groups: adding photographs to a
    collection moves none of the old ones, but near-duplicates of the new. The size of the fold is therefore
    ``fraction`` of the images only on average.

    Args:
        group_ids: (n,) int64, the group of each image.
        seed: the run's seed.
        fraction: share of the images that is held out, above 0 and below 1.

    Returns:
        (n,) bool, true for the images that are held out.

    Raises:
        ValueError: the fraction lies outside (0, 1).
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(
            f"validation fold: the fraction must lie between 0 and 1, got {fraction}; "
            "set evaluation.validation_fraction"
        )
    held_out: NDArray[np.bool_] = draws.uniform(_key(seed, "validation_fold"), group_ids, 1)[:, 0] < fraction
    return held_out


def stratified_folds(
    group_ids: NDArray[np.int64], positives: NDArray[np.bool_], folds: int, seed: int, name: str
) -> NDArray[np.int64]:
    """Deal groups into cross-validation folds so that positives and negatives are spread evenly over them.

    Groups with a positive and groups without are each put in a drawn order and dealt one by one; the negatives start
    where the positives stopped, so that folds differ by at most one group, and by at most one with a positive.

    Args:
        group_ids: (n,) int64, the group of each image.
        positives: (n,) bool, the class that is stratified by.
        folds: number of folds, at least 2.
        seed: the run's seed.
        name: what the folds are for, usually the class: other names give other draws.

    Returns:
        (n,) int64, the fold of each image.
    """
    groups, members = np.unique(group_ids, return_inverse=True)
    drawn = draws.uniform(_key(seed, "stratified_folds", name), groups, 1)[:, 0]
    order = np.lexsort((groups, drawn, np.bincount(members, positives, len(groups)) == 0))
    assigned = np.empty(len(groups), dtype=np.int64)
    assigned[order] = np.arange(len(groups)) % folds
    return assigned[members]


def _key(seed: int, *names: str) -> int:
    return draws.stream(seed, "evaluation", *names)
