"""Our selective search and OpenCV's under one interface: what a benchmark knows of either stands here."""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.modes import Mode
from orl_ray.proposals.opencv_reference import opencv_boxes
from orl_ray.proposals.ranking import rank
from orl_ray.proposals.selective_search import propose

Photograph = NDArray[np.uint8]
Boxes = NDArray[np.int32]
# Searches a photograph; what it returns puts its boxes into the seeded order of (seed, image id).
Search = Callable[[Photograph], Callable[[int, int], Boxes]]

SIDES = ("ours", "opencv")
MODES: tuple[Mode, ...] = ("fast", "half", "quality")


def search_of(side: str, mode: Mode, max_side: int = 0) -> Search:
    """Return a side's search.

    Args:
        side: ``ours`` or ``opencv``.
        mode: ``fast``, ``half`` or ``quality``; against ``half``, OpenCV searches in its fast mode at native size.
        max_side: of ours, see :func:`propose`.
    """
    cv2.setNumThreads(1)
    return _ours(mode, max_side) if side == "ours" else _opencv("quality" if mode == "quality" else "fast")


def _ours(mode: Mode, max_side: int) -> Search:
    def search(image: Photograph) -> Callable[[int, int], Boxes]:
        regions = propose(image, mode, max_side)
        return lambda seed, image_id: rank(regions, seed, image_id).boxes

    return search


def _opencv(mode: Literal["fast", "quality"]) -> Search:
    def search(image: Photograph) -> Callable[[int, int], Boxes]:
        found = opencv_boxes(image, mode)
        return lambda seed, image_id: _in_seeded_order(found, image, mode, seed, image_id)

    return search


def _in_seeded_order(
    found: Boxes, image: Photograph, mode: Literal["fast", "quality"], seed: int, image_id: int
) -> Boxes:
    """Put OpenCV's boxes into the order of draw times level; those that our search lacks, and knows no level of, last.

    OpenCV's Python interface gives no levels.
    """
    known = set(map(tuple, found.tolist()))
    ordered = [box for box in map(tuple, rank(propose(image, mode), seed, image_id).boxes.tolist()) if box in known]
    rest = sorted(known.difference(ordered))
    return np.array([*ordered, *rest], np.int32).reshape(-1, 4)
