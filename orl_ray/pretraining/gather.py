"""The rows of all processes side by side, with gradients: what contrasts over the global batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Join the rows of all processes, in order of rank, which is the order of the batch.

    A process' gradient holds what the losses of *all* processes give its own rows, so that the mean of all processes'
    gradients is that of the mean of their losses. To be called by all processes at the same point.

    Args:
        rows: (n, d) float; n may differ between processes, and be 0.

    Returns:
        (N, d) rows of all processes, and where this process' own begin.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return rows, 0
    own = torch.tensor([len(rows)], device=rows.device)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    counts = [int(count) for count in gathered]
    joined: Tensor = _GatherRows.apply(rows, counts)
    return joined, sum(counts[: dist.get_rank()])


class _GatherRows(torch.autograd.Function):
    """Rows of all processes; backwards, the sum over processes of what falls on a process' own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = sum(ctx.counts[: dist.get_rank()])
        return total[start : start + ctx.counts[dist.get_rank()]], None
