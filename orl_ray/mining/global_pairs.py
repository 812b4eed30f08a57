"""From the nearest RoIs of an image's RoIs to its rows of correspondences: an image of these a row."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.global_search import Found


class NeighborPairs(NamedTuple):
    """The pairs of an image with one other image, by falling similarity; ties by query position, then the other's.

    Attributes:
        neighbor_id: the other image.
        query_index: (n,) int64 positions in the image's RoIs.
        boxes: (n, 4) int32 boxes in the other image.
        similarities: (n,) float64 cosines, exact.
    """

    neighbor_id: int
    query_index: NDArray[np.int64]
    boxes: NDArray[np.int32]
    similarities: NDArray[np.float64]


def pairs_by_image(found: Found, images: int, pairs: int) -> list[NeighborPairs]:
    """Group what was found for one image's RoIs by the images that it lies in.

    Images go by their best pair, ties by id. So fewer ``images`` give a prefix, fewer ``pairs`` prefixes of each.

    Args:
        found: a row for each RoI of the image, in their order.
        images: other images kept at most.
        pairs: pairs kept with each at most.

    Returns:
        The pairs, best image first.
    """
    rows, columns = np.nonzero(found.image_ids >= 0)
    ids, similarities = found.image_ids[rows, columns], found.similarities[rows, columns]
    order = np.lexsort((found.positions[rows, columns], rows, -similarities, ids))
    starts = np.flatnonzero(np.r_[True, np.diff(ids[order]) != 0][: len(order)])
    members = np.split(order, starts[1:]) if len(order) else []
    best = np.lexsort((ids[order[starts]], -similarities[order[starts]]))[:images]
    chosen = [members[at][:pairs] for at in best.tolist()]
    return [
        NeighborPairs(int(ids[at[0]]), rows[at], found.boxes[rows[at], columns[at]], similarities[at]) for at in chosen
    ]
