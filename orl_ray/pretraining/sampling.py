"""The stream of training samples: an endless walk through the images, newly permuted each lap.

Where the images do not divide by the batch, a batch holds the end of one lap and the start of the next, so that all are
full; or, as published, each lap ends in a short one; or what is left over is dropped.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws

# Images in a row that stay together where images are shuffled within windows: a part of the scenes, as a rule.
RUN = 512


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
        last_batch: what becomes of the images that are left over at the end of a lap: ``full``, ``short`` or
            ``dropped``, as the setting of that name says.
        window: if above 0, images are shuffled within windows of so many instead of over the whole collection. Runs of
            ``RUN`` images that are neighbours in the training set, and so mostly in one file, come in a random order;
            a window is the next so many images of it. The order is a function of the collection's size alone.

    Raises:
        ValueError: a lap would have no batch, or one of a single image, for which batch norm has no statistics.
    """

    seed: int
    stage: str
    images: int
    batch_size: int
    last_batch: str = "full"
    window: int = 0

    def __post_init__(self) -> None:
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

    def share(self, share: Share) -> list[LapSamples]:
        """Return the samples of a share of a step; those of all its shares, in order, make up the batch."""
        return self._samples(*self._bounds(share))

    def a_window_ahead(self, share: Share) -> NDArray[np.int64]:
        """Return positions that come one window after those of a share, so that their files may be fetched by then."""
        start, count = self._bounds(share)
        later = self._samples(start + self.window, count)
        return np.concatenate([np.empty(0, np.int64), *(part.positions for part in later)])

    def count(self, step: int) -> int:
        """Return the number of samples of a step; only the last one of a lap may differ from the batch."""
        return self._span(step)[1]

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

    def _bounds(self, share: Share) -> tuple[int, int]:
        """Return the number of a share's first sample, counted over all laps, and how many there are."""
        start, count = self._span(share.step)
        first, last = (count * index // share.count for index in (share.index, share.index + 1))
        return start + first, last - first

    def _samples(self, start: int, count: int) -> list[LapSamples]:
        if not count:
            return [LapSamples(start // self.images, np.empty(0, np.int64))]
        samples = np.arange(start, start + count, dtype=np.int64)
        laps = samples // self.images
        return [self._lap(int(lap), samples[laps == lap] % self.images) for lap in np.unique(laps)]

    def _lap(self, lap: int, places: NDArray[np.int64]) -> LapSamples:
        if self.window:
            places = self._in_windows(lap, places)
            return LapSamples(lap, self._in_runs(lap, places))
        key = draws.stream(self.seed, self.stage, lap, "order")
        return LapSamples(lap, draws.permute(key, places, self.images))

    def _in_windows(self, lap: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Permute places within each window."""
        permuted = np.empty_like(places)
        for window in np.unique(places // self.window):
            key = draws.stream(self.seed, self.stage, lap, "window", int(window))
            start, inside = int(window) * self.window, places // self.window == window
            size = min(self.window, self.images - start)
            permuted[inside] = start + draws.permute(key, places[inside] - start, size)
        return permuted

    def _in_runs(self, lap: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map places in the order of the runs to positions; 16 bytes a run are held meanwhile."""
        count = -(-self.images // RUN)
        runs = draws.permute(draws.stream(self.seed, self.stage, lap, "runs"), np.arange(count), count)
        ends = np.cumsum(np.minimum(RUN, self.images - runs * RUN))  # the last run may be short
        index = np.searchsorted(ends, places, side="right")
        positions: NDArray[np.int64] = runs[index] * RUN + places - np.concatenate([[0], ends])[index]
        return positions
