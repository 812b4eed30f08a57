"""Training checkpoints in the store: safetensors and JSON, fenced: who lost the lease writes nothing."""

import json

from safetensors.torch import load, save

from orl_ray.folders import Folder
from orl_ray.leases import check_fence
from orl_ray.pretraining.checkpoint_names import PREFIX, is_kept, outdated
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.storage import Store, digest

_TENSORS, _STATE = "tensors.safetensors", "state.json"


def checkpoint_folder(store: Store, output: str) -> Folder:
    """Return the folder of a training's checkpoints; but for those that are kept, they go when the training is done."""
    return store.root / f"checkpoints/{output}"


def delete_passing(folder: Folder) -> None:
    """Delete all that lies in a folder of checkpoints but the checkpoints that are kept; without any, the folder."""
    names = folder.names()
    if not any(map(is_kept, names)):
        folder.delete_folder()
        return
    for name in names:
        if is_kept(name):
            continue
        if name.startswith(PREFIX):
            folder.delete_folder(name)
        else:
            folder.delete(name)


class StoreCheckpoints:
    """Checkpoints of one training output.

    A checkpoint is a folder whose ``state.json`` is written last and holds the hash of the tensors.

    Args:
        store: the store.
        output: what is trained, for example ``image_level/<key>``; also the name of its lease.
        fence: the lease's fencing token.
        latest: how many of the newest to keep.
        kept: how many to keep of those that are saved every so many epochs, the newest; 0 for all.
    """

    def __init__(self, store: Store, output: str, fence: int, latest: int = 2, kept: int = 0) -> None:
        self._store, self._output, self._fence, self._limits = store, output, fence, (latest, kept)
        self._folder = checkpoint_folder(store, output)

    def latest(self) -> Checkpoint | None:
        """Return the whole checkpoint with the most steps, or None where there is none."""
        for name in reversed(self._names()):
            state = json.loads(self._folder.read(f"{name}/{_STATE}"))
            tensors = self._folder.read(f"{name}/{_TENSORS}")
            if digest(tensors) == state["tensors_hash"]:
                workers = tuple((begun, count) for begun, count in state["workers"])
                return Checkpoint(state["step"], load(tensors), state["history"], workers)
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and remove those that are outdated.

        Raises:
            LeaseLostError: another driver has taken this training over.
        """
        check_fence(self._store, self._output, self._fence)
        name = checkpoint.name
        tensors = save(checkpoint.tensors)
        self._folder.write(f"{name}/{_TENSORS}", tensors)
        state = {
            "step": checkpoint.step,
            "history": checkpoint.history,
            "workers": checkpoint.workers,
            "tensors_hash": digest(tensors),
        }
        self._folder.write(f"{name}/{_STATE}", json.dumps(state, allow_nan=False).encode())
        for old in outdated(self._names(), *self._limits):
            self._folder.delete(f"{old}/{_STATE}")  # first of all: without its state it is no checkpoint any more
            self._folder.delete_folder(old)

    def _names(self) -> list[str]:
        names = sorted(name for name in self._folder.names() if name.startswith(PREFIX))
        return [name for name in names if self._folder.exists(f"{name}/{_STATE}")]
