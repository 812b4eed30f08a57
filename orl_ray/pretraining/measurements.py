"""What is measured of a network's features while it trains: their spread, effective rank, alignment and uniformity.

All four are of unit vectors: of the two views of each image, over the samples of all processes. They cost nothing until
they are asked for: a step only keeps its features, without waiting for the device.
"""

import math
from collections import deque

import torch
from torch import Tensor
from torch.nn import functional

from orl_ray.pretraining.place import Place

# A rank of fewer vectors than dimensions says more of the vectors' number than of their directions.
_VECTORS_A_DIMENSION = 4
_MOST_VECTORS = 4096
# The temperature of Wang & Isola's uniformity.
_POTENTIAL = 2.0


class FeatureWindow:
    """The newest features of a training: as many steps as give four vectors a dimension, 4,096 vectors at most.

    Args:
        place: where this process runs; the window is over all processes.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._steps: deque[tuple[Tensor, Tensor]] = deque()

    def add(self, first: Tensor, second: Tensor) -> None:
        """Keep the features of a batch and drop the oldest that are not needed any more.

        Args:
            first: (n, d) float, of one view of each image of this process' share, which may be empty.
            second: (n, d) float, of the other view.
        """
        # Copies: compiled networks may give the next step's features in the same memory.
        self._steps.append((first.detach().clone(), second.detach().clone()))
        kept = sum(2 * len(features) for features, _ in self._steps)
        while kept - 2 * len(self._steps[0][0]) >= self._wanted() / self._place.size:
            kept -= 2 * len(self._steps.popleft()[0])

    def fills_at(self, batch_size: int) -> int:
        """Return the step at which the window of a training that starts is full; ask when it holds something.

        Args:
            batch_size: images a step, over all processes.
        """
        return math.ceil(self._wanted() / (2 * batch_size))

    def measure(self) -> dict[str, float]:
        """Measure the features that are kept; every process must ask, and all get the same.

        Returns:
            ``feature_std``, ``alignment`` and ``uniformity``, and once the window is full ``effective_rank``: what has
            fewer vectors has a lower rank, and would not compare.
        """
        first, second = (
            functional.normalize(self._place.gather(torch.cat(views).float()), dim=1)
            for views in zip(*self._steps, strict=True)
        )
        units = torch.cat([first, second])
        measured = {
            "feature_std": feature_std(units),
            "alignment": alignment(first, second),
            "uniformity": (uniformity(first) + uniformity(second)) / 2,
        }
        if len(units) >= self._wanted():
            measured["effective_rank"] = effective_rank(units)
        return dict(zip(measured, torch.stack([value.double() for value in measured.values()]).tolist(), strict=True))

    def _wanted(self) -> int:
        """Return how many vectors of all processes fill the window."""
        return min(_VECTORS_A_DIMENSION * self._steps[0][0].shape[1], _MOST_VECTORS)


def feature_std(units: Tensor) -> Tensor:
    """Return the spread of unit vectors: 1 where directions are uniform, 0 where there is one.

    It is the standard deviation of their components, averaged, times the root of d.

    Args:
        units: (n, d) float of unit length.

    Returns:
        A scalar.
    """
    spread: Tensor = units.std(dim=0, correction=0).mean() * units.shape[1] ** 0.5
    return spread


def effective_rank(units: Tensor) -> Tensor:
    """Return along how many directions vectors vary: the exponential of the entropy of their singular values.

    As Roy & Vetterli ("The effective rank", EUSIPCO 2007) define it and RankMe (Garrido et al., ICML 2023) uses it, but
    about the vectors' mean: that all of them share a direction is for :func:`feature_std` to tell.

    Args:
        units: (n, d) float.

    Returns:
        A float64 scalar up to min(n - 1, d): 1 where they vary along one direction, 0 where they are exactly the same.
    """
    values = torch.linalg.svdvals((units - units.mean(dim=0)).double())
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    rank: Tensor = torch.special.entr(shares).sum().exp() * (values.sum() > 0)
    return rank


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared distance of the two views of an image (Wang & Isola, ICML 2020), in [0, 4].

    Args:
        first: (n, d) unit vectors of one view of each image.
        second: (n, d) of the other.

    Returns:
        A scalar; 0 where views agree, be it because all vectors do; 2 where they have nothing to do with each other.
    """
    return (first - second).square().sum(dim=1).mean()


def uniformity(units: Tensor) -> Tensor:
    """Return the logarithm of the mean of exp(-2 distance²) over pairs of images (Wang & Isola, ICML 2020).

    Args:
        units: (n, d) unit vectors of different images, n at least 2.

    Returns:
        A scalar: 0 where all vectors are the same; about -4 where many directions of many dimensions are uniform.
    """
    return torch.pdist(units).square().mul(-_POTENTIAL).exp().mean().log()
