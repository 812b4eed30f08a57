"""How the samples of a step go through the networks: in passes that all processes share."""

import math
from dataclasses import dataclass

from orl_ray.pretraining.place import Place
from orl_ray.pretraining.sampling import SampleStream, Share


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes of a training: gradients add up over those of a step, batch norm takes its statistics over each.

    Args:
        stream: says which samples a step takes.
        micro_batch: most samples a pass, over all processes.
        place: where this process runs.

    Raises:
        ValueError: a process would have no sample in a pass.
    """

    stream: SampleStream
    micro_batch: int
    place: Place

    def __post_init__(self) -> None:
        if self.micro_batch < self.place.size:
            raise ValueError(f"{self.place.size} training processes cannot share {self.micro_batch} images a pass")

    def of_step(self, step: int) -> list[Share]:
        """Return this process' share of each pass of a step; shares may differ by one sample."""
        count, size = math.ceil(self.stream.count(step) / self.micro_batch), self.place.size
        return [Share(step, number * size + self.place.rank, count * size) for number in range(count)]

    def factor(self, step: int, samples: int) -> float:
        """Return what the mean over a share counts for, where shares are summed over passes and averaged over ranks.

        Args:
            step: the step.
            samples: number of samples in the share.
        """
        return self.place.size * samples / self.stream.count(step)
