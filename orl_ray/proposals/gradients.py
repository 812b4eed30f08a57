"""Oriented image gradients: Scharr's filter along the axes and along the diagonals.

Uijlings et al., "Selective search for object recognition", IJCV 2013, section 3.2, take Gaussian derivatives in eight
orientations; OpenCV's ``selectivesearchsegmentation.cpp`` takes Scharr derivatives instead, of the image and of the
image turned by 45 degrees, turned back, and splits each into its positive and its negative part. The same calls to
OpenCV are made here, on as many rows and columns as are needed.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

# warpAffine computes a row in vectors with a scalar rest: cut to whole blocks, each pixel is computed as in a full row.
_BLOCK = 64


def oriented_gradients(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute an image's derivatives along x, y and the two diagonals.

    Args:
        image: (H, W, channels) or (H, W) uint8.

    Returns:
        (4 * channels, H, W) float32: for each channel x, y, the diagonal x and the diagonal y.
    """
    planes = cv2.split(image) if image.ndim == 3 else (image,)
    gradients = np.empty((4 * len(planes), *image.shape[:2]), np.float32)
    for channel, plane in enumerate(planes):
        _plane_gradients(np.asarray(plane), gradients[4 * channel : 4 * channel + 4])
    return gradients


def _plane_gradients(plane: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    cv2.Scharr(plane, cv2.CV_32F, 1, 0, dst=out[0])
    cv2.Scharr(plane, cv2.CV_32F, 0, 1, dst=out[1])
    height, width = plane.shape
    centre = (width / 2.0, height / 2.0)
    box_width, box_height = _turned_size(centre, width, height, 45.0)
    turn = cv2.getRotationMatrix2D(centre, 45.0, 1.0)
    turn[0, 2] += box_width / 2.0 - centre[0]
    turn[1, 2] += box_height / 2.0 - centre[1]
    turned = cv2.warpAffine(plane, turn, (box_width, box_height))
    # A narrow image's box is shorter than the image; OpenCV starts at 0 there.
    left, top = max(0, (box_width - width) // 2), max(0, (box_height - height) // 2)
    centre = (float(box_width // 2), float(box_height // 2))
    full_width, _ = _turned_size(centre, box_width, box_height, -45.0)
    back = cv2.getRotationMatrix2D(centre, -45.0, 1.0)
    size = (min(full_width, -(-(left + width) // _BLOCK) * _BLOCK), top + height)
    for place, (dx, dy) in enumerate([(1, 0), (0, 1)], start=2):
        gradient = cv2.Scharr(turned, cv2.CV_32F, dx, dy)
        out[place] = cv2.warpAffine(gradient, back, size)[top:, left : left + width]


def _turned_size(centre: tuple[float, float], width: int, height: int, angle: float) -> tuple[int, int]:
    """Return the (width, height) of the upright box of a turned rectangle, as OpenCV rounds it."""
    box = cv2.RotatedRect(centre, (width, height), angle).boundingRect()
    return int(box[2]), int(box[3])
