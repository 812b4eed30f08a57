"""OpenCV contrib's own selective search: what tests and the benchmark compare with.

Its box *set* is deterministic for one build and CPU; its *order* is not: every region is ranked by C's unseeded,
process-wide ``rand()`` (``hierarchicalGrouping`` in opencv_contrib's ``selectivesearchsegmentation.cpp``).
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


def opencv_boxes(image: NDArray[np.uint8], mode: Literal["fast", "quality"]) -> NDArray[np.int32]:
    """Propose boxes with OpenCV, on one thread.

    Args:
        image: (H, W, 3) RGB uint8, H and W at least 1.
        mode: ``fast`` (12 hierarchies) or ``quality`` (100 hierarchies).

    Returns:
        (n, 4) int32 xywh boxes in pixels, n >= 1, distinct, sorted by x, then y, then width, then height.
    """
    cv2.setNumThreads(1)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    return np.unique(np.asarray(search.process(), dtype=np.int32), axis=0)
