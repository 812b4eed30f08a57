"""Learning rate and EMA momentum as functions of the step (specification 1.3 and 1.4)."""

import math
from dataclasses import dataclass

from orl_ray import config
from orl_ray.pretraining.sampling import SampleStream

_WARMUP_START = 1e-4
_RATE_BATCH = 256
_EMA_BATCH = 512


def scaled_learning_rate(rate: float, batch_size: int) -> float:
    """Scale a learning rate for a batch of 256 linearly to a batch (Goyal et al., 2017)."""
    return rate * batch_size / _RATE_BATCH


def learning_rate(step: int, total: int, peak: float, warmup: float, epoch: int = 1) -> float:
    """Return the learning rate of a step: a cosine from ``peak`` to 0, times a linear warm-up from 1e-4 to 1.

    The warm-up changes every step. So does the cosine, unless it is held over an epoch, as in the reference: a default
    of its framework.

    Args:
        step: from 0 to total.
        total: steps of the whole training.
        peak: the rate that the warm-up leads to.
        warmup: steps of warm-up; may be fractional, 0 for none.
        epoch: steps over which the cosine keeps its value.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * (step // epoch * epoch) / total))
    progress = step / warmup if step < warmup else 1.0
    return peak * cosine * (_WARMUP_START + (1 - _WARMUP_START) * progress)


def ema_momentum(step: int, total: int, base: float, final: float = 1.0) -> float:
    """Return the target's momentum after a step: from ``base`` at step 0 along a cosine to ``final`` at ``total``."""
    return final - (final - base) * (1 + math.cos(math.pi * step / total)) / 2


def scaled_ema_base(base: float, batch_size: int, total: int, horizon: float) -> float:
    """Adapt the EMA's first momentum to the batch and to short trainings.

    Args:
        base: momentum for a batch of 512.
        batch_size: global batch; the momentum becomes ``base ** (batch_size / 512)``, so that as many *images* are
            averaged over (the EMA scaling rule of Busbridge et al., 2023).
        total: steps of the whole training.
        horizon: if above 0, the EMA averages over at most ``horizon * total`` steps: the momentum is at most
            ``1 - 1 / (horizon * total)``.

    Returns:
        A momentum in [0, 1].
    """
    scaled = float(base ** (batch_size / _EMA_BATCH))
    if horizon > 0:
        scaled = min(scaled, 1 - 1 / max(1.0, horizon * total))
    return scaled


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of one training.

    Attributes:
        total: steps in all.
        peak: learning rate that the warm-up leads to.
        warmup: steps of warm-up.
        ema_base: the target's first momentum.
        ema_final: the target's last momentum.
        cosine_steps: steps over which the learning rate's cosine keeps its value.
    """

    total: int
    peak: float
    warmup: float
    ema_base: float
    ema_final: float = 1.0
    cosine_steps: int = 1

    @classmethod
    def of(cls, settings: config.Pretraining, stream: SampleStream) -> "Schedule":
        """Work out the schedule of a training on a stream of samples.

        Raises:
            ValueError: the cosine is to change once an epoch, and an epoch is no whole number of steps.
        """
        total, epoch = stream.total_steps(settings.epochs), stream.steps(1)
        if settings.cosine == "epoch" and not epoch.is_integer():
            raise ValueError(
                f"cosine=epoch: an epoch of {stream.images} images is {epoch:.1f} batches of {stream.batch_size}; "
                "take last_batch=short or dropped, or cosine=step"
            )
        return cls(
            total,
            peak=scaled_learning_rate(settings.learning_rate, settings.batch_size),
            warmup=stream.steps(settings.warmup_epochs),
            ema_base=scaled_ema_base(settings.ema_base, settings.batch_size, total, settings.ema_horizon),
            ema_final=scaled_ema_base(settings.ema_final, settings.batch_size, total, horizon=0),
            cosine_steps=int(epoch) if settings.cosine == "epoch" else 1,
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return learning_rate(step, self.total, self.peak, self.warmup, self.cosine_steps)

    def ema_momentum(self, step: int) -> float:
        """Return the target's momentum after a step, counted from 0."""
        return ema_momentum(step, self.total, self.ema_base, self.ema_final)
