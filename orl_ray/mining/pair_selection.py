"""Which of the stored pairs training takes: a selection, so that trying another one mines nothing again.

``mining.k`` and ``mining.pair_ratio`` take prefixes, of an image's neighbours and of a neighbour's pairs. Of these,
``mining.min_similarity`` and ``mining.max_similarity`` drop what lies outside: no later pair moves up in its place, so
that the selection does not depend on how many pairs are stored.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray.columns import box_lists_of
from orl_ray.config import Mining
from orl_ray.mining.matching import pair_count

_LOWEST, _HIGHEST = -2.0, 2.0


class Coverage(NamedTuple):
    """How much of a collection has pairs; sums of parts are those of the whole.

    Attributes:
        images: images with at least one pair.
        neighbors: (image, neighbour) with at least one pair.
        asked: (image, neighbour) that were looked at.
        pairs: pairs.
    """

    images: int
    neighbors: int
    asked: int
    pairs: int


def select_pairs(table: pa.Table, mining: Mining) -> list[NDArray[np.int64]]:
    """Select of a table of correspondences what training takes.

    Args:
        table: of the schema ``CORRESPONDENCES``.
        mining: its ``k``, ``pair_ratio``, ``min_similarity`` and ``max_similarity`` select.

    Returns:
        For each row the (n,) int64 places of its selected pairs, rising; n = 0 for rows beyond k, and where no pair
        lies within the bounds.

    Raises:
        ValueError: a bound is set, but the pairs were imported from a file without similarities.
    """
    lists = table["similarities"].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    sizes = np.diff(offsets)
    counts = {rois: pair_count(rois, mining.pair_ratio) for rois in table["rois"].unique().to_pylist()}
    wanted = np.array([counts[rois] for rois in table["rois"].to_pylist()], dtype=np.int64)
    wanted[table["rank"].to_numpy() >= mining.k] = 0
    places = np.arange(sizes.sum()) - np.repeat(offsets[:-1] - offsets[0], sizes)
    taken = places < np.repeat(wanted, sizes)
    if mining.min_similarity > _LOWEST or mining.max_similarity < _HIGHEST:
        found = lists.flatten()
        if found.null_count:
            raise ValueError(
                "these pairs were imported without similarities: mining.min_similarity and mining.max_similarity "
                "cannot select among them; leave both out"
            )
        values = found.to_numpy()
        taken &= (values >= mining.min_similarity) & (values <= mining.max_similarity)
    cuts = np.searchsorted(np.flatnonzero(taken), np.cumsum(sizes)[:-1])
    return np.split(places[taken], cuts) if len(sizes) else []


def selected_boxes(table: pa.Table, mining: Mining) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Return for each row of correspondences the (n, 4) boxes of its selected pairs, on the image and the neighbour.

    Args:
        table: as :func:`select_pairs` takes it.
        mining: likewise.

    Raises:
        ValueError: as :func:`select_pairs`.
    """
    places = select_pairs(table, mining)
    query, neighbor = (box_lists_of(table, name) for name in ("query_boxes", "neighbor_boxes"))
    return [(own[at], other[at]) for own, other, at in zip(query, neighbor, places, strict=True)]


def coverage_of(table: pa.Table, mining: Mining) -> Coverage:
    """Count what is selected of a table of correspondences.

    Args:
        table: as :func:`select_pairs` takes it.
        mining: likewise.

    Raises:
        ValueError: as :func:`select_pairs`.
    """
    sizes = np.array([len(places) for places in select_pairs(table, mining)], dtype=np.int64)
    ids, ranks = table["image_id"].to_numpy(), table["rank"].to_numpy()
    return Coverage(
        len(np.unique(ids[sizes > 0])), int((sizes > 0).sum()), int((ranks < mining.k).sum()), int(sizes.sum())
    )
