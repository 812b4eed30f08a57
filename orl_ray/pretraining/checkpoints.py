"""Training checkpoints: what one holds, what a store of them does, and a store in a plain folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from orl_ray.pretraining.checkpoint_names import PREFIX, checkpoint_name, outdated


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after some step; all randomness is keyed by the step, so this is the whole state.

    Attributes:
        step: completed steps.
        tensors: contiguous CPU tensors by name: ``online.backbone.*``, ``online.projector.*``, ``predictors.*``,
            ``target.*`` and ``optimizer.*``.
        history: the measurements so far, one entry a logged step.
        workers: (steps completed before, processes) of each stretch that was trained with another number of them.
        kept: whether it stays beside the latest ones: those that are saved every so many epochs do.
    """

    step: int
    tensors: dict[str, Tensor]
    history: list[dict[str, float]]
    workers: tuple[tuple[int, int], ...] = ()
    kept: bool = False

    @property
    def name(self) -> str:
        """Name in a store."""
        return checkpoint_name(self.step, kept=self.kept)


class CheckpointStore(Protocol):
    """Keeps checkpoints of one training."""

    def latest(self) -> Checkpoint | None:
        """Return the checkpoint with the most steps, or None where there is none."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, whole or not at all. Called by another thread than the training's, one call at a time."""


class FolderCheckpoints:
    """Checkpoints as files of ``torch.save`` in a folder.

    Args:
        folder: created when the first checkpoint is saved.
        latest: how many of the newest to keep, at least 1.
        kept: how many to keep of those that are saved every so many epochs, the newest; 0 for all.

    Raises:
        ValueError: fewer than one is to be kept.
    """

    def __init__(self, folder: Path, latest: int = 2, kept: int = 0) -> None:
        if latest < 1:
            raise ValueError(f"keep at least one checkpoint, not {latest}")
        self._folder = folder
        self._limits = latest, kept

    def latest(self) -> Checkpoint | None:
        """Return the checkpoint with the most steps, or None where there is none."""
        paths = self._paths()
        if not paths:
            return None
        content = torch.load(paths[max(paths)], map_location="cpu", weights_only=True)
        return Checkpoint(content["step"], content["tensors"], content["history"], tuple(content["workers"]))

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint under a temporary name, move it into place, and remove those that are outdated."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{checkpoint.name}.pt"
        hidden = path.with_suffix(".tmp")
        content = {
            "step": checkpoint.step,
            "tensors": checkpoint.tensors,
            "history": checkpoint.history,
            "workers": checkpoint.workers,
        }
        with hidden.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
        hidden.replace(path)
        paths = self._paths()
        for name in outdated(paths, *self._limits):
            paths[name].unlink()

    def _paths(self) -> dict[str, Path]:
        return {path.stem: path for path in self._folder.glob(f"{PREFIX}*.pt")}
