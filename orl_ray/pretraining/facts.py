"""What a training amounts to, from its settings alone: operations a sample, and what batch norm averages over."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from orl_ray import config
from orl_ray.encoders.batch_norm import kind_of_batch_norm
from orl_ray.pretraining.contrast import Encoder, batch_losses, queue_losses
from orl_ray.pretraining.objectives import GLOBAL, Online, term_weights

_GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations a sample of a training; a multiplication and an addition are two.

    Convolutions and matrix products are counted, as :class:`torch.utils.flop_counter.FlopCounterMode` does.

    Attributes:
        online: backbone and projector, forward and backward.
        target: backbone and projector of the averaged network, forward; 0 where there is none.
        predictors: forward and backward; 0 where there are none.
        loss: the products that the contrastive methods take the softmax of, forward and backward.
    """

    online: float
    target: float
    predictors: float
    loss: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.online + self.target + self.predictors + self.loss


def flops_per_sample(settings: config.Pretraining, encoder: config.Encoder) -> Flops:
    """Count the operations of one sample, on tensors without memory, of the real networks and sizes.

    Args:
        settings: of the stage. MoCo's queue counts as configured, though it is never longer than the collection.
        encoder: architecture and widths.
    """
    sides = _sides(settings)
    method = settings.method if isinstance(settings, config.ImageLevel) else "byol"
    with torch.device("meta"):
        network = Encoder(encoder, method)
        forward = sum(_count(network, _image(side), backward=False) for side in sides)
        both = sum(_count(network, _image(side)) for side in sides)
        if method == "moco":  # one view for the query network, one for the key network
            return Flops(both / 2, forward / 2, 0.0, _loss_flops(settings, encoder))
        if method == "simclr":
            return Flops(both, 0.0, 0.0, _loss_flops(settings, encoder))
        predictor = Online(encoder, (GLOBAL,)).predictors[GLOBAL]
        vector = torch.empty(_PAIR, encoder.output, requires_grad=True)
        return Flops(both, forward, len(sides) * _count(predictor, vector), 0.0)


def training_facts(
    settings: config.Pretraining, encoder: config.Encoder, processes: int, device_type: str
) -> dict[str, Any]:
    """Return the facts of a training for its record: ``flops_per_sample`` and ``batch_norm``.

    Args:
        settings: of the stage.
        encoder: architecture and widths.
        processes: number of training processes.
        device_type: what they compute on, ``cpu`` or ``cuda``.
    """
    flops = flops_per_sample(settings, encoder)
    sides = _sides(settings)
    sizes = {
        f"{side}px": settings.batch_size * (sides.count(side) if settings.merge_views else 1) for side in set(sides)
    }
    return {
        "flops_per_sample": {**asdict(flops), "total": flops.total},
        "batch_norm": {
            "kind": kind_of_batch_norm(processes, device_type),
            "statistics": "of all views of one size" if settings.merge_views else "of each view by itself",
            "processes": processes,
            "batch": dict(sorted(sizes.items())),
        },
    }


def describe(facts: Mapping[str, Any]) -> list[str]:
    """Return the lines that tell people the facts from :func:`training_facts`."""
    flops, norm = facts["flops_per_sample"], facts["batch_norm"]
    parts = ", ".join(f"{name} {flops[name] / _GIGA:.2f}" for name in ("online", "target", "predictors", "loss"))
    batches = ", ".join(f"{size} of {side}" for side, size in norm["batch"].items())
    return [
        f"{flops['total'] / _GIGA:.2f} GFLOP a sample ({parts})",
        f"batch norm: {norm['kind']} over {norm['processes']} process(es), {norm['statistics']}: {batches}",
    ]


_PAIR = 2  # batch norm needs two


def _sides(settings: config.Pretraining) -> list[int]:
    """Return the sides of all views of a sample, pixels."""
    patch = settings.patch_size if isinstance(settings, config.ObjectLevel) else 0
    return [settings.view_size if term == GLOBAL else patch for term in term_weights(settings) for _ in range(2)]


def _image(side: int) -> Tensor:
    return torch.empty(_PAIR, 3, side, side)


def _count(network: Callable[..., Any], inputs: Tensor, *, backward: bool = True) -> float:
    """Count one pass over a batch, for one sample of it."""
    with FlopCounterMode(display=False) as counter:
        output = network(inputs)
        if backward:
            (output[0] if isinstance(output, list) else output).sum().backward()
    return float(counter.get_total_flops()) / len(inputs)


def _loss_flops(settings: config.Pretraining, encoder: config.Encoder) -> float:
    """Count the loss of a contrastive method, on real tensors: autocast, which it rules out, knows no others."""
    if not isinstance(settings, config.ImageLevel):
        raise TypeError("object-level pre-training contrasts nothing")
    with torch.device("cpu"):
        first = torch.zeros(settings.batch_size, encoder.output, requires_grad=True)
        second = torch.zeros(settings.batch_size, encoder.output, requires_grad=True)
        if settings.method == "simclr":
            return _count(lambda rows: batch_losses(rows, second, 1.0), first)
        queue = torch.zeros(settings.queue, encoder.output)
        return _count(lambda rows: queue_losses(rows, second, queue, 1.0), first)
