"""When checkpoints are taken, and a thread that writes them while the training goes on."""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from orl_ray.pretraining.checkpoints import Checkpoint, CheckpointStore
from orl_ray.pretraining.state import TrainingState


class CheckpointWriter:
    """Takes checkpoints when they are due, and writes them behind the training's back, one at a time.

    A training waits for the copy to the host only, unless a checkpoint that is kept is due before the last one is
    written. Leaving the block waits for the last one.

    Args:
        store: where to.
        seconds: shortest time between two checkpoints that only serve to go on from; while one is written, none is
            taken.
        kept_steps: steps between two checkpoints that are kept, may be fractional; 0 for none.

    Raises:
        Exception: on the next call, or at the end of the block, whatever the store raised.
    """

    def __init__(self, store: CheckpointStore, seconds: float, kept_steps: float = 0.0) -> None:
        self._store, self._seconds, self._kept_steps = store, seconds, kept_steps
        self._saved = time.monotonic()
        self._writing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self._await()

    def after_step(self, state: TrainingState) -> None:
        """Take a checkpoint of a training if one is due after the step that it has just done."""
        if self._writing is not None and self._writing.done():
            self._await()
        is_overdue = self._writing is None and time.monotonic() - self._saved >= self._seconds
        if is_overdue or self.keeps(state.step):
            self.save(state.checkpoint(kept=self.keeps(state.step)))

    def keeps(self, step: int) -> bool:
        """Tell whether the checkpoint after so many steps is kept: the first one at or after each whole interval."""
        if not self._kept_steps:
            return False
        done, before = (math.floor(count / self._kept_steps + 1e-9) for count in (step, step - 1))
        return done > before

    def save(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, once the one before is written."""
        self._await()
        self._writing = self._thread.submit(self._store.save, checkpoint)
        self._saved = time.monotonic()

    def _await(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
