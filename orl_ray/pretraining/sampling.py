"""The stream of training samples: an endless walk through the images, newly permuted each lap.

Sample ``step * batch + i`` of the stream lies in lap ``sample // images``. Batches are always full: where the images do
not divide by the batch, a batch holds the end of one lap and the start of the next, and no small last batch exists.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws


@dataclass(frozen=True, slots=True)
class LapSamples:
    """Consecutive samples of one lap.

    Attributes:
        lap: number of completed walks through all images; the epoch in the keys of draws.
        positions: (n,) int64, positions of the images in the training set.
    """

    lap: int
    positions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """One of several contiguous parts of a batch, whose sizes differ by one at most: a process', or an accumulation's.

    Attributes:
        step: the step that the batch is for, counted from 0.
        index: number of the part, from 0.
        count: number of parts that the batch is cut into.
    """

    step: int
    index: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class SampleStream:
    """The samples of a training, as a pure function of the step.

    Args:
        seed: the run's seed.
        stage: name of the stage.
        images: number of images in the training set.
        batch_size: global batch, over all processes.
    """

    seed: int
    stage: str
    images: int
    batch_size: int

    def total_steps(self, epochs: float) -> int:
        """Return the number of steps that see each image ``epochs`` times on average, rounded up."""
        return math.ceil(epochs * self.images / self.batch_size - 1e-9)  # the allowance absorbs rounding of the product

    def batch(self, step: int) -> list[LapSamples]:
        """Return the samples of one step, counted from 0: one entry a lap that the batch touches, in order."""
        return self._samples(step * self.batch_size, self.batch_size)

    def share(self, share: "Share") -> list[LapSamples]:
        """Return the samples of a share of a step; those of all its shares, in order, make up the batch."""
        first, last = (self.batch_size * index // share.count for index in (share.index, share.index + 1))
        return self._samples(share.step * self.batch_size + first, last - first)

    def _samples(self, start: int, count: int) -> list[LapSamples]:
        samples = np.arange(start, start + count, dtype=np.int64)
        laps = samples // self.images
        return [self._lap(int(lap), samples[laps == lap] % self.images) for lap in np.unique(laps)]

    def _lap(self, lap: int, places: NDArray[np.int64]) -> LapSamples:
        key = draws.stream(self.seed, self.stage, lap, "order")
        return LapSamples(lap, draws.permute(key, places, self.images))
