"""Our selective search and OpenCV's under one interface: what a benchmark knows of either stands here."""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.ranking import rank
from orl_ray.proposals.selective_search import propose

try:
    from orl_ray.proposals.opencv_reference import opencv_boxes  # type: ignore[import-not-found,unused-ignore]
except ModuleNotFoundError:  # until OpenCV's search stands apart from ours

    def opencv_boxes(image: NDArray[np.uint8], mode: Literal["fast", "quality"]) -> NDArray[np.int32]:
        """Return OpenCV's distinct boxes."""
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
        (search.switchToSelectiveSearchFast if mode == "fast" else search.switchToSelectiveSearchQuality)()
        return np.unique(np.asarray(search.process(), dtype=np.int32), axis=0)


Photograph = NDArray[np.uint8]
Boxes = NDArray[np.int32]
# Searches a photograph; what it returns puts its boxes into the seeded order of (seed, image id).
Search = Callable[[Photograph], Callable[[int, int], Boxes]]

SIDES = ("ours", "opencv")
MODES = ("fast", "half", "quality")


def search_of(side: str, mode: str) -> Search:
    """Return a side's search.

    Args:
        side: ``ours`` or ``opencv``.
        mode: ``fast``, ``half`` or ``quality``; against ``half``, OpenCV searches in its fast mode at native size.
    """
    cv2.setNumThreads(1)
    return _ours(mode) if side == "ours" else _opencv(mode)


def _ours(mode: str) -> Search:
    def search(image: Photograph) -> Callable[[int, int], Boxes]:
        found = propose(image, mode)  # type: ignore[arg-type]
        return lambda seed, image_id: rank(found, seed, image_id)

    return search


def _opencv(mode: str) -> Search:
    def search(image: Photograph) -> Callable[[int, int], Boxes]:
        found = opencv_boxes(image, "quality" if mode == "quality" else "fast")
        return lambda seed, image_id: rank(found, seed, image_id)

    return search
