"""Checkpoints in a folder: round trips, the newest few, whole or not at all."""

import pytest
import torch

from orl_ray.pretraining import checkpoints
from orl_ray.pretraining.checkpoints import Checkpoint, FolderCheckpoints


def checkpoint(step):
    return Checkpoint(step, {"online.weight": torch.full((2, 3), float(step))}, [{"step": float(step), "loss": 4.0}])


def test_checkpoint_comes_back(tmp_path):
    store = FolderCheckpoints(tmp_path / "checkpoints")
    store.save(checkpoint(7))
    found = store.latest()
    assert found.step == 7
    assert torch.equal(found.tensors["online.weight"], torch.full((2, 3), 7.0))
    assert found.history == [{"step": 7.0, "loss": 4.0}]


def test_empty_store_has_no_latest(tmp_path):
    assert FolderCheckpoints(tmp_path / "nowhere").latest() is None


def test_newest_are_kept_by_step_and_not_by_name_length(tmp_path):
    store = FolderCheckpoints(tmp_path, keep=2)
    for step in (9, 10, 100):
        store.save(checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000010.pt", "step-000000000100.pt"]
    assert store.latest().step == 100


def test_interrupted_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    store = FolderCheckpoints(tmp_path)
    store.save(checkpoint(1))

    def broken(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        store.save(checkpoint(2))
    monkeypatch.undo()
    assert store.latest().step == 1
    store.save(checkpoint(2))
    assert store.latest().step == 2


def test_keeping_none_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        FolderCheckpoints(tmp_path, keep=0)
