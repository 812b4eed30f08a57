"""The exponential moving average that moves the target network (specification 1.3)."""

import torch
from torch import nn


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move the target's parameters towards the online network's, in place: ``t <- m t + (1 - m) o``.

    Parameters only: the target's batch-norm buffers are its own, from its own batches.

    Args:
        target: the averaged network.
        online: the trained network, with the same parameters in the same order.
        momentum: m, in [0, 1].
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
