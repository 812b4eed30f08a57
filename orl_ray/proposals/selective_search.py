"""Selective search as OpenCV contrib computes it, made a pure function of the pixels.

OpenCV's box *set* is deterministic for one build and CPU; its *order* is not: every region is ranked by C's unseeded,
process-wide ``rand()`` (``hierarchicalGrouping`` in opencv_contrib's ``selectivesearchsegmentation.cpp``). So the
boxes are put into a canonical order here, and :mod:`orl_ray.proposals.ranking` draws the order that the RoI filter
reads.

The method is Uijlings et al., "Selective search for object recognition", IJCV 2013; ORL calls mode ``fast`` at native
size, unfiltered.
"""

import hashlib
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.decode import shrink_longer

Mode = Literal["fast", "quality"]


def propose(image: NDArray[np.uint8], mode: Mode, max_side: int = 0) -> NDArray[np.int32]:
    """Propose boxes for one image.

    Every segment of OpenCV's first segmentation gives a box, so there is at least one: an image of one colour, or of
    a single pixel, gives exactly the box of the whole image. OpenCV runs on one thread (its threads do not help
    here); parallelise over images.

    Args:
        image: (H, W, 3) RGB uint8, H and W at least 1.
        mode: ``fast`` (12 hierarchies, what ORL uses) or ``quality`` (80 hierarchies, about 4 times slower).
        max_side: if above 0, an image with a longer side is searched at this one, and the boxes are scaled back: time
            grows faster than the number of pixels.

    Returns:
        (n, 4) int32 xywh boxes in pixels, n >= 1, without duplicates, sorted by x, then y, then width, then height.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, has no pixels, or the mode is unknown.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"selective search takes a non-empty (H, W, 3) uint8 image, not {image.shape} {image.dtype}")
    if 0 < max_side < max(image.shape[:2]):
        small = shrink_longer(image, max_side)
        return _scaled(propose(small, mode), small.shape, image.shape)
    cv2.setNumThreads(1)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    elif mode == "quality":
        search.switchToSelectiveSearchQuality()
    else:
        raise ValueError(f"unknown selective search mode {mode!r}: use 'fast' or 'quality'")
    return np.unique(np.asarray(search.process(), dtype=np.int32), axis=0)


def _scaled(boxes: NDArray[np.int32], size: tuple[int, ...], to_size: tuple[int, ...]) -> NDArray[np.int32]:
    """Scale boxes from an image of one (height, width) to another; edges are rounded, so that neighbours still meet."""
    scale = np.array([to_size[1] / size[1], to_size[0] / size[0]])
    first, last = np.rint(boxes[:, :2] * scale), np.rint((boxes[:, :2] + boxes[:, 2:]) * scale)
    return np.unique(np.concatenate([first, last - first], axis=1).astype(np.int32), axis=0)


def environment() -> dict[str, str]:
    """Name what the box set depends on beside the pixels, for an artifact's record.

    Returns:
        ``opencv``: the version; ``opencv_build``: 16 hex digits that identify the build's options; ``opencv_cpu``:
        the instruction sets that OpenCV dispatches to on this machine (its blur and gradients differ in the last bit
        between them).
    """
    build = hashlib.sha256(cv2.getBuildInformation().encode()).hexdigest()[:16]
    return {"opencv": cv2.__version__, "opencv_build": build, "opencv_cpu": cv2.getCPUFeaturesLine()}
