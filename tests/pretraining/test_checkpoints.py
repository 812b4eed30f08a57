"""Checkpoints in a folder: round trips, the newest few, whole or not at all."""

import dataclasses

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
    store = FolderCheckpoints(tmp_path, latest=2)
    for step in (9, 10, 100):
        store.save(checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000000010.pt", "step-000000000100.pt"]
    assert store.latest().step == 100


def test_those_by_epoch_are_kept_beside_the_newest(tmp_path):
    store = FolderCheckpoints(tmp_path, latest=1, kept=2)
    for step, kept in ((1, False), (2, True), (3, False), (4, True), (5, False), (6, True), (7, False)):
        store.save(dataclasses.replace(checkpoint(step), kept=kept))
    names = ["step-000000000004-kept.pt", "step-000000000006-kept.pt", "step-000000000007.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert store.latest().step == 7


def test_all_those_by_epoch_are_kept_where_no_number_is_given(tmp_path):
    store = FolderCheckpoints(tmp_path, latest=1)
    for step in range(1, 5):
        store.save(dataclasses.replace(checkpoint(step), kept=True))
    assert len(list(tmp_path.iterdir())) == 4
    assert store.latest().step == 4


def test_the_numbers_of_workers_come_back(tmp_path):
    store = FolderCheckpoints(tmp_path)
    store.save(dataclasses.replace(checkpoint(7), workers=((0, 2), (5, 1))))
    assert store.latest().workers == ((0, 2), (5, 1))


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
        FolderCheckpoints(tmp_path, latest=0)
