"""Where the time of a training goes: throughput, the share spent waiting for data, and the parts of a step."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Parts of a step that a GPU does, behind the back of the process that asks for them.
_ON_DEVICE = ("augment", "forward", "backward", "optimise")


class StepClock:
    """Measures a training between two readings.

    On the CPU, and of what the process itself does, every step is measured. A GPU works while the process goes on, so
    its parts of a step are told by events that it passes. Only those of the last step are kept, and only a reading
    waits for them.

    Args:
        device: where the networks compute.
        batch_size: global batch, images a step.
    """

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self._on_gpu = device.type == "cuda"
        self._batch_size = batch_size
        self._restart()

    def _restart(self) -> None:
        self._started, self._steps = time.perf_counter(), 0
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def step(self) -> None:
        """Say that a step begins."""
        self._steps += 1
        self._spans.clear()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part of a step, which may come several times; parts do not nest.

        Args:
            name: ``data``, ``augment``, ``forward``, ``backward``, ``optimise``, ``measure`` or ``checkpoint``.
        """
        if self._on_gpu and name in _ON_DEVICE:
            started = _passed()
            yield
            self._spans.append((name, started, _passed()))
        else:
            began = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Return what was measured since the last reading, and begin anew; on a GPU, wait until it has done the step.

        Returns:
            ``images_per_second``; ``data_wait``, the share of the time that was spent waiting for data; and for each
            part ``ms_<name>``, milliseconds a step: their mean, or on a GPU those of the last step.
        """
        milliseconds = {name: 1000 * seconds / self._steps for name, seconds in self._seconds.items()}
        if self._spans:
            self._spans[-1][2].synchronize()
        for name, started, ended in self._spans:
            milliseconds[name] = milliseconds.get(name, 0.0) + started.elapsed_time(ended)
        elapsed = time.perf_counter() - self._started
        readings = {
            "images_per_second": self._steps * self._batch_size / elapsed,
            "data_wait": self._seconds["data"] / elapsed,
            **{f"ms_{name}": value for name, value in milliseconds.items()},
        }
        self._restart()
        return readings


def _passed() -> torch.cuda.Event:
    """Return an event that the GPU passes when it has done all that it was asked for so far."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
