"""Training checkpoints in the store: safetensors and JSON, fenced: who lost the lease writes nothing."""

import json

from safetensors.torch import load, save

from orl_ray.folders import Folder
from orl_ray.leases import check_fence
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.storage import Store, digest

_TENSORS, _STATE = "tensors.safetensors", "state.json"


def checkpoint_folder(store: Store, output: str) -> Folder:
    """Return the folder of a training's checkpoints; it goes when the training is done."""
    return store.root / f"checkpoints/{output}"


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
        for name in reversed(self._names()):
            state = json.loads(self._folder.read(f"{name}/{_STATE}"))
            tensors = self._folder.read(f"{name}/{_TENSORS}")
            if digest(tensors) == state["tensors_hash"]:
                return Checkpoint(state["step"], load(tensors), state["history"])
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and remove the oldest beyond those to keep.

        Raises:
            LeaseLostError: another driver has taken this training over.
        """
        check_fence(self._store, self._output, self._fence)
        name = f"step-{checkpoint.step:012d}"
        tensors = save(checkpoint.tensors)
        self._folder.write(f"{name}/{_TENSORS}", tensors)
        state = {"step": checkpoint.step, "history": checkpoint.history, "tensors_hash": digest(tensors)}
        self._folder.write(f"{name}/{_STATE}", json.dumps(state, allow_nan=False).encode())
        for old in self._names()[: -self._keep]:
            self._folder.delete(f"{old}/{_STATE}")  # first of all: without its state it is no checkpoint any more
            self._folder.delete_folder(old)

    def _names(self) -> list[str]:
        names = sorted(name for name in self._folder.names() if name.startswith("step-"))
        return [name for name in names if self._folder.exists(f"{name}/{_STATE}")]
