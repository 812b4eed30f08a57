"""The RoI filter's loop over boxes, compiled when it is first imported and kept in numba's cache.

Apart from :mod:`orl_ray.proposals.roi_filter`, so that only workers that filter import numba, a fifth of a second.
"""

import numba
import numpy as np
from numpy.typing import NDArray

# One signature, which takes read-only boxes as Arrow gives them, and writable ones, too: compiled once for both.
_BOXES = numba.types.Array(numba.int32, 2, "C", readonly=True)
_SIGNATURE = numba.int32[::1](_BOXES, numba.int64, numba.float64, numba.float64, numba.float64, numba.int64)


# error_model="numpy" leaves out a test for division by 0, which no box with an area needs. No fastmath: a quotient is
# the one that NumPy gives.
@numba.njit(_SIGNATURE, nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def keep_greedily(
    boxes: NDArray[np.int32], divisor: int, least: float, max_aspect: float, max_iou: float, max_rois: int
) -> NDArray[np.int32]:
    """Return the positions of the boxes that the filter keeps, in their order.

    A box is compared with kept ones only, and those are at most ``max_rois``: the time is linear in the boxes, however
    many are dropped.

    Args:
        boxes: (n, 4) int32 xywh with an area, pixels.
        divisor: what the smaller side is divided by before it is compared: 1, or the image's short side.
        least: the smallest quotient that passes.
        max_aspect: the largest ratio of the longer to the shorter side.
        max_iou: the largest IoU with a kept box; not negative.
        max_rois: the most positions that are returned.

    Returns:
        (m,) int32 positions, 0 <= m <= max_rois.
    """
    kept = np.empty(min(len(boxes), max_rois), np.int32)
    corners = np.empty((5, len(kept)), np.int64)  # left, top, right, bottom and area of the kept boxes
    count = 0
    for index in range(len(boxes)):
        if count == len(kept):
            break
        left, top = np.int64(boxes[index, 0]), np.int64(boxes[index, 1])
        width, height = np.int64(boxes[index, 2]), np.int64(boxes[index, 3])
        shorter, longer = min(width, height), max(width, height)
        if shorter / divisor < least or longer / shorter > max_aspect:
            continue
        right, bottom, area = left + width, top + height, width * height
        stands = True
        for other in range(count):
            across = min(right, corners[2, other]) - max(left, corners[0, other])
            down = min(bottom, corners[3, other]) - max(top, corners[1, other])
            if across > 0 and down > 0:
                shared = across * down
                if shared / (area + corners[4, other] - shared) > max_iou:
                    stands = False
                    break
        if stands:
            kept[count] = index
            corners[0, count], corners[1, count], corners[4, count] = left, top, area
            corners[2, count], corners[3, count] = right, bottom
            count += 1
    return kept[:count]
