"""Tensors between host and device, without a wait where the device can work meanwhile.

A copy to or from pageable memory holds the host up until the device has done all that was asked of it, so that the
device then waits for the next image to be decoded. Pinned memory and an event avoid that.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Send an array to a device; on the CPU, share its memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def arrived(results: Iterable[Tensor]) -> Iterator[NDArray[np.float32]]:
    """Bring results to the host, in order.

    Each is taken from a GPU only once the next one has been asked of it, so that it always has work.

    Args:
        results: float32 tensors on any device. Reading the next one may launch its computation.
    """
    before: _Landing | None = None
    for result in results:
        if result.device.type != "cuda":
            yield result.numpy()
            continue
        launched = _Landing(result)
        if before is not None:
            yield before.wait()
        before = launched
    if before is not None:
        yield before.wait()


class _Landing:
    """A copy from a GPU that is under way."""

    def __init__(self, tensor: Tensor) -> None:
        self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self.host.copy_(tensor, non_blocking=True)
        self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.done.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> NDArray[np.float32]:
        self.done.synchronize()
        found: NDArray[np.float32] = self.host.numpy()
        return found
