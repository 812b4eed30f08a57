"""The order in which the RoI filter reads an image's proposals.

The reference reads them in OpenCV's order, ``rand() * level`` ascending, which no seed controls: two runs over the
same photograph keep different RoIs. Here each box has its own keyed draw instead, so that the order is the same on
every worker and after every restart, and adding or removing one box leaves the others in place. The draw is uniform
over boxes: OpenCV's Python interface does not give a box's level in its hierarchy, so ``rand() * level``, which
favours small regions, cannot be formed from its output. Levels come with a search of our own.
"""

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws


def rank(boxes: NDArray[np.int32], seed: int, image_id: int) -> NDArray[np.int32]:
    """Order one image's proposals by a draw that is keyed by the seed, the image and the box itself.

    Args:
        boxes: (n, 4) int32 xywh, in any order.
        seed: the run's seed.
        image_id: the image that the boxes lie in.

    Returns:
        (n, 4) int32: the same boxes by rising draw; equal draws by x, then y, then width, then height.

    Raises:
        ValueError: the boxes are not (n, 4).
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (n, 4) xywh, not {boxes.shape}")
    key = draws.stream(seed, "proposals", int(image_id))
    x, y, width, height = boxes.astype(np.int64).T
    # 128 bits of coordinates are folded into one id in two steps: the corner's own draw, then the size on top of it.
    corner = draws.integers(key, (x << 32) | y, 1 << 53)
    score = draws.uniform(key, corner ^ ((width << 32) | height), 1)[:, 0]
    return boxes[np.lexsort((height, width, y, x, score))]
