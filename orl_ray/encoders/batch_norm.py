"""Batch norm with statistics over all training processes, on any device.

torch's own ``SyncBatchNorm`` refuses CPU tensors, so several CPU workers need this one. Statistics of uneven local
batches are combined by the parallel rule of Chan, Golub & LeVeque ("Updating formulae and a pairwise algorithm for
computing sample variances", 1979).
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class AllReduceBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, for inputs (n, channels, ...).

    Parameters, buffers and their names are those of torch's own; without a process group of two or more it is torch's
    own. As in ``SyncBatchNorm``, each process holds the weight and bias gradients of its local batch only, which
    DistributedDataParallel averages. An empty local batch is allowed.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        if input.dim() < 2:
            raise ValueError(f"batch norm takes (n, channels, ...), got a tensor with {input.dim()} dimension(s)")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalise a batch.

        Args:
            input: (n, channels, ...) float, this process' share of the batch.

        Returns:
            The same shape.

        Raises:
            ValueError: in training, the batches of all processes together have a single value a channel.
        """
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _Synchronised.apply(input, self.weight, self.bias, self.eps)
        self._update_running_statistics(mean, variance, count)
        return output  # type: ignore[no-any-return]

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _Synchronised(torch.autograd.Function):
    """Normalisation by the statistics of all processes, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, batch: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _global_statistics(batch)
        if count.item() <= 1:
            raise ValueError(
                "batch norm in training needs more than one value a channel over all processes: use a larger batch"
            )
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(batch, weight, mean, scale, count)
        output = (batch - _channels(mean, batch)) * _channels(scale, batch)
        if weight is not None and bias is not None:
            output = output * _channels(weight, batch) + _channels(bias, batch)
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(batch.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        batch, weight, mean, scale, count = ctx.saved_tensors
        normalised = (batch - _channels(mean, batch)) * _channels(scale, batch)
        axes = [axis for axis in range(batch.dim()) if axis != 1]
        bias_gradient = gradient.to(mean.dtype).sum(axes)
        weight_gradient = (gradient * normalised).sum(axes)
        sums = torch.stack([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        centre, slope = sums / count
        inner = gradient - _channels(centre, batch) - normalised * _channels(slope, batch)
        factor = scale if weight is None else scale * weight
        input_gradient = (inner * _channels(factor, batch)).to(batch.dtype)
        if weight is None:
            return input_gradient, None, None, None
        return input_gradient, weight_gradient.to(weight.dtype), bias_gradient.to(weight.dtype), None


def _global_statistics(batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (channels,), biased variance (channels,) and values a channel (scalar), over all processes."""
    axes = [axis for axis in range(batch.dim()) if axis != 1]
    values = batch.to(torch.promote_types(batch.dtype, torch.float32))
    channels = batch.shape[1]
    count = values.new_tensor([batch.numel() // channels])
    mean = values.sum(axes) / count.clamp(min=1)
    squares = (values - _channels(mean, batch)).square().sum(axes)
    local = torch.cat([count, mean, squares])
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    rows = torch.stack(gathered)
    counts, means, squares = rows[:, :1], rows[:, 1 : channels + 1], rows[:, channels + 1 :]
    total = counts.sum()
    mean = (counts * means).sum(0) / total.clamp(min=1)
    deviations = squares.sum(0) + (counts * (means - mean).square()).sum(0)
    return mean, deviations / total.clamp(min=1), total


def _channels(vector: Tensor, batch: Tensor) -> Tensor:
    """View a (channels,) vector so that it broadcasts over a (n, channels, ...) batch."""
    return vector.view(1, -1, *([1] * (batch.dim() - 2)))


def kind_of_batch_norm(processes: int, device_type: str) -> str:
    """Name the batch norm that a training computes with, for its record."""
    if processes == 1:
        return "torch.nn.BatchNorm"
    return "torch.nn.SyncBatchNorm" if device_type == "cuda" else AllReduceBatchNorm.__name__


def convert_batch_norm(module: nn.Module, device_type: str) -> nn.Module:
    """Replace every batch norm by one with statistics over all processes, which takes over parameters and buffers.

    Args:
        module: changed in place, unless it is itself a batch norm.
        device_type: ``cuda`` takes ``torch.nn.SyncBatchNorm``, any other :class:`AllReduceBatchNorm`.

    Returns:
        The converted module.
    """
    if device_type == "cuda":
        return cast("nn.Module", nn.SyncBatchNorm.convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]
    if isinstance(module, _BatchNorm):
        return _converted(module)
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child, device_type))
    return module


def _converted(norm: _BatchNorm) -> AllReduceBatchNorm:
    replacement = AllReduceBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    replacement.weight, replacement.bias = norm.weight, norm.bias
    replacement.running_mean, replacement.running_var = norm.running_mean, norm.running_var
    replacement.num_batches_tracked = norm.num_batches_tracked
    return replacement.train(norm.training)
