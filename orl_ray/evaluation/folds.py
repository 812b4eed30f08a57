"""Which images are held out, drawn by image id: neither their order nor the number of workers plays a part."""

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws


def validation_fold(image_ids: NDArray[np.int64], seed: int, fraction: float) -> NDArray[np.bool_]:
    """Say which images belong to the validation fold.

    Each image is drawn by its own id, so its membership never depends on the other images: adding photographs to a
    collection moves none of the old ones. The size of the fold is therefore ``fraction`` of the images only on average.

    Args:
        image_ids: (n,) int64.
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
    held_out: NDArray[np.bool_] = draws.uniform(_key(seed, "validation_fold"), image_ids, 1)[:, 0] < fraction
    return held_out


def stratified_folds(
    image_ids: NDArray[np.int64], positives: NDArray[np.bool_], folds: int, seed: int, name: str
) -> NDArray[np.int64]:
    """Deal images into cross-validation folds so that positives and negatives are spread evenly over them.

    Positives and negatives are each put in a drawn order and dealt one by one; the negatives start where the positives
    stopped, so that folds differ by at most one image, and by at most one positive.

    Args:
        image_ids: (n,) int64, each once.
        positives: (n,) bool, the class that is stratified by.
        folds: number of folds, at least 2.
        seed: the run's seed.
        name: what the folds are for, usually the class: other names give other draws.

    Returns:
        (n,) int64, the fold of each image.
    """
    drawn = draws.uniform(_key(seed, "stratified_folds", name), image_ids, 1)[:, 0]
    order = np.lexsort((image_ids, drawn, ~positives))
    assigned = np.empty(len(image_ids), dtype=np.int64)
    assigned[order] = np.arange(len(image_ids)) % folds
    return assigned


def _key(seed: int, *names: str) -> int:
    return draws.stream(seed, "evaluation", *names)
