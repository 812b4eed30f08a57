"""Parts of a labelled training split: the 1 % and 10 % of semi-supervised learning, and a validation fold of them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.evaluation.single_label_layouts import LabelledImages

VALIDATION_SHARE = 0.2


def listed(images: LabelledImages, file: Path) -> LabelledImages:
    """Take the images that a published list names.

    Args:
        images: the training split.
        file: one image a line, by its file name (``n01440764_10026.JPEG``, as SimCLR's ``1percent.txt``) or its path
            below the folder of the split (``n01440764/n01440764_10026.JPEG 0``, as OpenSelfSup's
            ``train_labeled_1percent.txt``); a label behind it is that of the list and is not read.

    Raises:
        ValueError: the list is empty, or names an image that the split does not have, or one twice.
    """
    names = [
        line.split()[0].rpartition("/")[2] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    positions = {path.rpartition("/")[2]: position for position, path in enumerate(images.paths)}
    unknown = [name for name in names if name not in positions]
    if not names or unknown or len(set(names)) != len(names):
        problem = f"names {unknown[0]}, which the training split does not have" if unknown else "is empty or repeats"
        raise ValueError(f"{file} {problem}")
    return images.at(np.sort(np.array([positions[name] for name in names], dtype=np.int64)))


def drawn(images: LabelledImages, share: float, seed: int) -> LabelledImages:
    """Draw a share of each class, at least one image of each.

    Args:
        images: the training split.
        share: above 0, below 1; the count is rounded.
        seed: draws them.

    Raises:
        ValueError: the share lies outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"a share of the training images must lie between 0 and 1, got {share}")
    ranks, counts = _ranks(images, seed, "labelled_share")
    return images.at(np.flatnonzero(ranks < np.maximum(1, np.rint(share * counts))[images.labels]))


def fold(images: LabelledImages, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Cut a validation fold off: 20 % of each class, at least one image of each class that has two.

    Args:
        images: what was given for training.
        seed: draws the fold.

    Returns:
        What is trained on, and the fold.

    Raises:
        ValueError: no class has two images, so that nothing can be held out.
    """
    ranks, counts = _ranks(images, seed, "validation_fold")
    sizes = np.where(counts < 2, 0, np.maximum(1, np.rint(VALIDATION_SHARE * counts)))
    held_out = ranks < sizes[images.labels]
    if not held_out.any():
        raise ValueError("no class has two labelled images: there is nothing to choose settings on; label more")
    return images.at(np.flatnonzero(~held_out)), images.at(np.flatnonzero(held_out))


def _ranks(images: LabelledImages, seed: int, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put the images of each class in a drawn order; return each image's place in it, and the sizes of the classes."""
    ids = images.ids()
    numbers = draws.uniform(draws.stream(seed, "evaluation", name), ids, 1)[:, 0]
    order = np.lexsort((ids, numbers, images.labels))
    counts = np.bincount(images.labels, minlength=len(images.classes))
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(len(ids)) - starts[images.labels[order]]
    return ranks, counts
