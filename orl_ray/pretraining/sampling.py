"""The stream of training samples: an endless walk through the images, newly permuted each lap.

Where the images do not divide by the batch, a batch holds the end of one lap and the start of the next, so that all are
full; or, as published, each lap ends in a short one; or what is left over is dropped.
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
class SampleStream:
    """The samples of a training, as a pure function of the step.

    Args:
        seed: the run's seed.
        stage: name of the stage.
        images: number of images in the training set.
        batch_size: global batch, over all processes.
        processes: number of processes that share each batch.
        last_batch: what becomes of the images that are left over at the end of a lap: ``full``, ``short`` or
            ``dropped``, as the setting of that name says.

    Raises:
        ValueError: the processes do not divide the batch, or a lap would have no batch, or one of a single image,
            for which batch norm has no statistics.
    """

    seed: int
    stage: str
    images: int
    batch_size: int
    processes: int = 1
    last_batch: str = "full"

    def __post_init__(self) -> None:
        if self.batch_size % self.processes:
            sizes = f"the batch of {self.batch_size} does not divide by {self.processes} training processes"
            raise ValueError(f"{sizes}: change either")
        if self.last_batch == "dropped" and self.images < self.batch_size:
            raise ValueError(f"{self.images} images do not fill a batch of {self.batch_size}: nothing would be trained")
        if self.last_batch == "short" and self.images % self.batch_size == 1:
            raise ValueError(
                f"the last of {self.images} images would be a batch of its own, which batch norm cannot do: "
                "take last_batch=full or dropped"
            )

    def steps(self, epochs: float) -> float:
        """Return the number of steps that see each image ``epochs`` times on average; it may be a fraction."""
        if self.last_batch == "full":
            return epochs * self.images / self.batch_size
        return float(epochs * self._lap_steps)

    def total_steps(self, epochs: float) -> int:
        """Return the number of steps of a training of so many epochs, rounded up."""
        return math.ceil(self.steps(epochs) - 1e-9)  # the allowance absorbs rounding of the product

    def epoch(self, step: int) -> float:
        """Return the epochs that so many steps make."""
        if self.last_batch == "full":
            return step * self.batch_size / self.images
        return step / self._lap_steps

    def batch(self, step: int) -> list[LapSamples]:
        """Return the samples of one step, counted from 0: one entry a lap that the batch touches, in order."""
        return self._samples(*self._span(step))

    def share(self, step: int, rank: int) -> list[LapSamples]:
        """Return one process' contiguous share of the samples of a step; the shares of all ranks make up the batch.

        Shares are equal but for those of a short batch, which may differ by one, and be empty.
        """
        start, count = self._span(step)
        first, last = (count * number // self.processes for number in (rank, rank + 1))
        return self._samples(start + first, last - first)

    def share_factor(self, step: int, rank: int) -> float:
        """Return what a mean over a process' share has to be multiplied by.

        The mean of such products over all processes is the mean over the batch; for equal shares the factor is 1.
        """
        _, count = self._span(step)
        own = count * (rank + 1) // self.processes - count * rank // self.processes
        return own * self.processes / count

    @property
    def _lap_steps(self) -> int:
        """Steps of a lap whose last batch is short or dropped."""
        return -(-self.images // self.batch_size) if self.last_batch == "short" else self.images // self.batch_size

    def _span(self, step: int) -> tuple[int, int]:
        """Return the first sample of a step, counted over all laps, and their number."""
        if self.last_batch == "full":
            return step * self.batch_size, self.batch_size
        lap, place = divmod(step, self._lap_steps)
        start = place * self.batch_size
        return lap * self.images + start, min(self.batch_size, self.images - start)

    def _samples(self, start: int, count: int) -> list[LapSamples]:
        if not count:
            return [LapSamples(start // self.images, np.empty(0, np.int64))]
        samples = np.arange(start, start + count, dtype=np.int64)
        laps = samples // self.images
        return [self._lap(int(lap), samples[laps == lap] % self.images) for lap in np.unique(laps)]

    def _lap(self, lap: int, places: NDArray[np.int64]) -> LapSamples:
        key = draws.stream(self.seed, self.stage, lap, "order")
        return LapSamples(lap, draws.permute(key, places, self.images))
