"""Training checkpoints in the store: safetensors and JSON, fenced: who lost the lease writes nothing."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load, save

from orl_ray.leases import check_fence
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.storage import Store, digest, write_atomically

_TENSORS, _STATE = "tensors.safetensors", "state.json"


def checkpoint_folder(store: Store, output: str) -> Path:
    """Return the folder of a training's checkpoints; it goes when the training is done."""
    return store.root / "checkpoints" / output


class StoreCheckpoints:
    """Checkpoints of one training output, the newest few.

    A checkpoint is a folder whose ``state.json`` is written last and holds the hash of the tensors.

    Args:
        store: the store.
        output: what is trained, for example ``image_level/<key>``; also the name of its lease.
        fence: the lease's fencing token.
        keep: how many to keep.
    """

    def __init__(self, store: Store, output: str, fence: int, keep: int = 2) -> None:
        self._store, self._output, self._fence, self._keep = store, output, fence, keep
        self._folder = checkpoint_folder(store, output)

    def latest(self) -> Checkpoint | None:
        """Return the whole checkpoint with the most steps, or None where there is none."""
        for path in reversed(self._paths()):
            state = json.loads((path / _STATE).read_bytes())
            tensors = (path / _TENSORS).read_bytes()
            if digest(tensors) == state["tensors_hash"]:
                return Checkpoint(state["step"], load(tensors), state["history"])
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and remove the oldest beyond those to keep.

        Raises:
            LeaseLostError: another driver has taken this training over.
        """
        check_fence(self._store, self._output, self._fence)
        path = self._folder / f"step-{checkpoint.step:012d}"
        tensors = save(checkpoint.tensors)
        write_atomically(path / _TENSORS, tensors)
        state = {"step": checkpoint.step, "history": checkpoint.history, "tensors_hash": digest(tensors)}
        write_atomically(path / _STATE, json.dumps(state, allow_nan=False).encode())
        for old in self._paths()[: -self._keep]:
            (old / _STATE).unlink()  # first of all: without its state it is no checkpoint any more
            shutil.rmtree(old)

    def _paths(self) -> list[Path]:
        return sorted(state.parent for state in self._folder.glob(f"step-*/{_STATE}"))
