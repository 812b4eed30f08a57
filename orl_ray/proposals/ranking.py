"""The order in which the RoI filter reads an image's proposals: a draw for each region, weighted by where it stands.

OpenCV, and so ORL's published proposals, ranks a region by ``rand() * level``: regions that were merged from few
others come first, mostly. Uijlings et al., "Selective search for object recognition", IJCV 2013, section 4.1, rank by
``random * place``, counted from a hierarchy's last merge: large regions come first, mostly. Of regions with the same
box the first one counts. C's ``rand()`` is not seeded there, so two runs over one photograph keep different RoIs; here
each region has its own keyed draw, and the order is the same on every worker and after every restart.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.proposals.selective_search import Regions

Order = Literal["opencv", "paper"]


class Proposals(NamedTuple):
    """The proposals of one image, best first.

    Attributes:
        boxes: (n, 4) int32 xywh in pixels, distinct.
        levels: (n,) int16, the level of the region that each box is taken from.
    """

    boxes: NDArray[np.int32]
    levels: NDArray[np.int16]


def rank(regions: Regions, seed: int, image_id: int, order: Order = "opencv") -> Proposals:
    """Order one image's regions by a draw keyed by the seed, the image and the region's number, and drop copies.

    Args:
        regions: the regions of all hierarchies, in the order in which selective search gives them.
        seed: the run's seed.
        image_id: the image that the regions lie in.
        order: ``opencv`` multiplies the draw by the region's level, ``paper`` by its place.

    Returns:
        The distinct boxes by rising product; equal products by the region's number.

    Raises:
        ValueError: the boxes are not (n, 4), or the order is unknown.
    """
    if regions.boxes.ndim != 2 or regions.boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (n, 4) xywh, not {regions.boxes.shape}")
    if order not in ("opencv", "paper"):
        raise ValueError(f"unknown order {order!r}: use 'opencv' or 'paper'")
    key = draws.stream(seed, "proposals", int(image_id))
    weights = regions.levels if order == "opencv" else regions.places
    scores = draws.uniform(key, np.arange(len(weights), dtype=np.int64), 1)[:, 0] * weights
    by_score = np.argsort(scores, kind="stable")
    first = _first_of_each(regions.boxes[by_score])
    kept = by_score[first]
    return Proposals(regions.boxes[kept], regions.levels[kept])


def _first_of_each(boxes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the rising positions at which distinct boxes come up first."""
    if not len(boxes):
        return np.zeros(0, np.int64)
    ordered = np.lexsort(boxes.T)
    new = np.ones(len(boxes), np.bool_)
    new[1:] = (np.diff(boxes[ordered], axis=0) != 0).any(axis=1)
    # lexsort is stable: of equal boxes the earliest comes first.
    return np.sort(ordered[new])
