"""A reader over one scene's keyed draws: numbers one by one, in the same sequence for the same key."""

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws

_BLOCK = 1024


class Cursor:
    """Consecutive uniform draws of one id of one stream, drawn in blocks as they are needed."""

    def __init__(self, key: int, index: int) -> None:
        self._key = key
        self._ids = np.array([index], np.int64)
        self._blocks = 0
        self._left: list[float] = []

    def unit(self) -> float:
        """Return the next number in [0, 1)."""
        if not self._left:
            self._left = self._draw(_BLOCK)[::-1].tolist()
        return self._left.pop()

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.unit()

    def pick(self, limit: int) -> int:
        """Return an integer in [0, limit)."""
        return int(self.unit() * limit)

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.unit() < probability

    def field(self, *shape: int) -> NDArray[np.float32]:
        """Return an array of numbers in [0, 1), float32 of this shape."""
        return self._draw(int(np.prod(shape))).astype(np.float32).reshape(shape)

    def _draw(self, count: int) -> NDArray[np.float64]:
        self._blocks += 1
        numbers: NDArray[np.float64] = draws.uniform(draws.stream(self._key, self._blocks), self._ids, count)[0]
        return numbers
