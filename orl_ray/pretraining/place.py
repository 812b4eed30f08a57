"""Where a training process runs, and what it exchanges with the others besides gradients."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orl_ray.encoders.batch_norm import convert_batch_norm
from orl_ray.pretraining.gather import gather_rows

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

    def gathering(self, module: nn.Module) -> AbstractContextManager[None]:
        """Let gradients gather in this process, for a forward and backward pass that is not the step's last one.

        Args:
            module: from :meth:`parallel`.
        """
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def from_first(self, values: Tensor) -> Tensor:
        """Overwrite a tensor, in place, with that of the process of rank 0."""
        if self.size > 1:
            moved = values.to(self.device)  # NCCL takes no tensors of the host, where optimisers count their steps
            dist.broadcast(moved, src=0)
            if moved is not values:
                values.copy_(moved)
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
            values: (n, d) float; n may differ from process to process.
        """
        return values if self.size == 1 else gather_rows(values)[0]
