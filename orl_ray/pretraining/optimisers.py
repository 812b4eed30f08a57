"""The optimisers: SGD and AdamW of torch, and LARS, which torch lacks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from orl_ray import config

_TRUST = 0.001
_MOMENTUM = "momentum_buffer"
_STEP, _MOMENTS = "step", ("exp_avg", "exp_avg_sq")


class Lars(Optimizer):
    """Layer-wise adaptive rates (You, Gitman & Ginsburg, "Large batch training of convolutional networks", 2017).

    With gradient g, weights w, decay b and momentum m: ``v <- m v + lr q (g + b w)``, ``w <- w - v``, where the ratio q
    is ``0.001 |w| / (|g| + b |w|)``, or 1 where that has no meaning and for groups with ``adapt`` false.

    Args:
        groups: parameter groups, with ``weight_decay`` and ``adapt``.
        momentum: m.
    """

    def __init__(self, groups: list[dict[str, object]], momentum: float) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step; parameters without a gradient stay as they are."""
        if closure is not None:
            raise ValueError("LARS takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, float]) -> None:
        gradient, decay = parameter.grad, group["weight_decay"]
        if gradient is None:
            return
        rate: Tensor | float = group["lr"]
        if group["adapt"]:
            size, slope = parameter.norm(), gradient.norm()
            ratio = _TRUST * size / (slope + decay * size)
            rate = group["lr"] * torch.where((size > 0) & (slope > 0), ratio, 1.0)
        velocity = self.state[parameter][_MOMENTUM]
        velocity.mul_(group["momentum"]).add_(gradient.add(parameter, alpha=decay) * rate)
        parameter.sub_(velocity)


def build_optimizer(settings: config.Pretraining, online: nn.Module) -> Optimizer:
    """Build the optimiser of a network, its state all there: as before the first step.

    Args:
        settings: of the stage. Its learning rate is set before each step.
        online: the trained network.
    """
    groups = _groups(settings, online)
    optimizer: Optimizer
    if settings.optimizer == "adamw":
        optimizer = AdamW(groups, lr=0.0)
    elif settings.optimizer == "lars":
        optimizer = Lars(groups, settings.momentum)
    else:
        optimizer = SGD(groups, lr=0.0, momentum=settings.momentum)
    for parameter in online.parameters():
        state = optimizer.state[parameter]
        if settings.optimizer == "adamw":
            state[_STEP] = torch.tensor(0.0)
            state.update({name: torch.zeros_like(parameter) for name in _MOMENTS})
        else:  # SGD's first step from zeros is its first step from nothing
            state[_MOMENTUM] = torch.zeros_like(parameter)
    return optimizer


def optimizer_tensors(optimizer: Optimizer, online: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an optimiser's state under their names in a checkpoint, sharing memory.

    What counts steps is not among them: :func:`set_step` sets it.
    """
    for name, parameter in online.named_parameters():
        state = optimizer.state[parameter]
        if _MOMENTUM in state:
            yield f"optimizer.{name}", state[_MOMENTUM]
        else:
            yield from ((f"optimizer.{name}.{moment}", state[moment]) for moment in _MOMENTS)


def set_step(optimizer: Optimizer, step: int) -> None:
    """Tell an optimiser how many steps it has taken; AdamW's first steps depend on that."""
    for state in optimizer.state.values():
        if _STEP in state:
            state[_STEP].fill_(step)


def _groups(settings: config.Pretraining, online: nn.Module) -> list[dict[str, object]]:
    """Split the parameters into those with weight decay and those that are spared, norms and biases."""
    spared = {id(p) for p in online.parameters() if p.ndim < 2} if settings.exempt_norms_and_biases else set()
    decayed, others = ([p for p in online.parameters() if (id(p) in spared) is exempt] for exempt in (False, True))
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": settings.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    if settings.optimizer == "lars":
        groups = [{**group, "adapt": group["params"] is decayed} for group in groups]
    return groups
