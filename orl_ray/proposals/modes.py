"""What each mode of selective search looks at: colour spaces, scales k, and similarity strategies.

Uijlings et al., "Selective search for object recognition", IJCV 2013, section 5.1, call this diversification. ``fast``
and ``quality`` are OpenCV's; ``half`` is ``fast`` at half resolution, with k halved and the smallest segment a quarter.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.similarity import COLOUR, FILL, SIZE, TEXTURE

Mode = Literal["fast", "quality", "half"]


class Plan(NamedTuple):
    """What one mode does.

    Attributes:
        scales: values of k of the graph segmentation, rising.
        min_size: pixels of the smallest segment.
        strategies: sums of measures; see :mod:`orl_ray.proposals.similarity`.
        shrink: by how much the image is shrunk first.
    """

    scales: tuple[float, ...]
    min_size: int
    strategies: tuple[int, ...]
    shrink: int


_COMBINED = (COLOUR | FILL | TEXTURE | SIZE, FILL | TEXTURE | SIZE)
PLANS: dict[str, Plan] = {
    "fast": Plan((150, 300, 450), 100, _COMBINED, 1),
    "quality": Plan((150, 300, 450, 600, 750), 100, (*_COMBINED, FILL, SIZE), 1),
    "half": Plan((75, 150, 225), 25, _COMBINED, 2),
}


def colour_spaces(image: NDArray[np.uint8], mode: Mode) -> list[NDArray[np.uint8]]:
    """Convert an image to the colour spaces in which a mode segments it.

    Args:
        image: (H, W, 3) RGB uint8.
        mode: the mode.

    Returns:
        (H, W, channels) uint8 arrays: HSV and Lab; in mode ``quality`` also grey, blue, and red, green and grey
        together. (OpenCV means hue where it has blue: it splits the image's channels into the buffer that holds hue.)
    """
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    spaces = [cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV), cv2.cvtColor(bgr, cv2.COLOR_BGR2Lab)]
    if mode == "quality":
        grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[:, :, None]
        blue = np.ascontiguousarray(bgr[:, :, :1])
        spaces += [grey, blue, np.concatenate([image[:, :, :2], grey], axis=2)]
    return spaces
