"""Where a training process runs, and what it exchanges with the others besides gradients."""

import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orl_ray.encoders.batch_norm import convert_batch_norm

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Place:
    """One training process among several.

    Attributes:
        rank: number of the process, from 0.
        size: number of processes; torch.distributed must be initialised with as many if there are several.
        device: where it computes.

    Raises:
        ValueError: there are several processes and no process group of that size.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        if self.size > 1 and not (dist.is_initialized() and dist.get_world_size() == self.size):
            raise ValueError(f"{self.size} training processes need torch.distributed initialised with as many")

    def synchronise_batch_norm(self, module: nn.Module) -> nn.Module:
        """Let the batch norms of a module take their statistics over all processes."""
        return convert_batch_norm(module, self.device.type) if self.size > 1 else module

    def parallel(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that its gradients are averaged over all processes; buffers agree by themselves."""
        if self.size == 1:
            return module
        with warnings.catch_warnings():
            # torch 2.15 announces another name for broadcast_buffers, which the torch 2.9 also supported does not know.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def from_first(self, values: Tensor) -> Tensor:
        """Overwrite a tensor, in place, with that of the process of rank 0."""
        if self.size > 1:
            dist.broadcast(values, src=0)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the ranks.

        Args:
            values: (n, ...); n may differ from process to process.
        """
        if self.size == 1:
            return values
        counts = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.size)]
        dist.all_gather(counts, counts[0].new_tensor([len(values)]))
        lengths = torch.cat(counts).tolist()
        padded = values.new_zeros((max(lengths), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
