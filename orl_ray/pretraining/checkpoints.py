"""Training checkpoints: what one holds, what a store of them does, and a store in a plain folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after some step; all randomness is keyed by the step, so this is the whole state.

    Attributes:
        step: completed steps.
        tensors: contiguous CPU tensors by name: ``online.backbone.*``, ``online.projector.*``, ``predictors.*``,
            ``target.*`` and ``optimizer.*``.
        history: the measurements so far, one entry a logged step.
    """

    step: int
    tensors: dict[str, Tensor]
    history: list[dict[str, float]]


class CheckpointStore(Protocol):
    """Keeps checkpoints of one training."""

    def latest(self) -> Checkpoint | None:
        """Return the checkpoint with the most steps, or None where there is none."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, whole or not at all."""


class FolderCheckpoints:
    """Checkpoints as files of ``torch.save`` in a folder, the newest few.

    Args:
        folder: created when the first checkpoint is saved.
        keep: how many to keep, at least 1.

    Raises:
        ValueError: fewer than one is to be kept.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep at least one checkpoint, not {keep}")
        self._folder = folder
        self._keep = keep

    def latest(self) -> Checkpoint | None:
        """Return the checkpoint with the most steps, or None where there is none."""
        paths = self._paths()
        if not paths:
            return None
        content = torch.load(paths[-1], map_location="cpu", weights_only=True)
        return Checkpoint(content["step"], content["tensors"], content["history"])

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint under a temporary name, move it into place, and remove the oldest beyond those to keep."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{checkpoint.step:012d}.pt"
        hidden = path.with_suffix(".tmp")
        content = {"step": checkpoint.step, "tensors": checkpoint.tensors, "history": checkpoint.history}
        with hidden.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
        hidden.replace(path)
        for old in self._paths()[: -self._keep]:
            old.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.pt"))
