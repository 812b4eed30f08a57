"""Checkpoints in the store: whole or not at all, the newest few, and only from who holds the lease."""

import dataclasses
import json

import pytest
import torch

from orl_ray.folders import Folder
from orl_ray.leases import Lease, LeaseLostError, lease_folder
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.store_checkpoints import StoreCheckpoints, checkpoint_folder, delete_passing
from orl_ray.storage import Store

OUTPUT = "image_level/abc"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def checkpoints(store):
    with Lease(store, OUTPUT, promise=30, run_id="test") as lease:
        yield StoreCheckpoints(store, OUTPUT, lease.fence)


def checkpoint(step):
    tensors = {"online.weight": torch.full((2, 3), float(step)), "counts": torch.tensor(step)}
    return Checkpoint(step, tensors, [{"step": float(step), "loss": 0.1 * step}])


def folders(store):
    return sorted(path.name for path in checkpoint_folder(store, OUTPUT).local.iterdir())


def test_there_is_none_at_first(checkpoints):
    assert checkpoints.latest() is None


def test_a_checkpoint_comes_back_as_it_was(checkpoints):
    checkpoints.save(checkpoint(7))
    found = checkpoints.latest()
    assert (found.step, found.history) == (7, [{"step": 7.0, "loss": 0.1 * 7}])
    assert found.tensors.keys() == {"online.weight", "counts"}
    assert all(torch.equal(tensor, checkpoint(7).tensors[name]) for name, tensor in found.tensors.items())


def test_another_process_reads_what_this_one_saved(store, checkpoints):
    checkpoints.save(checkpoint(3))
    assert StoreCheckpoints(store, OUTPUT, fence=99).latest().step == 3


def test_the_newest_are_kept_by_number_of_steps(store, checkpoints):
    for step in (9, 10, 100, 1000):
        checkpoints.save(checkpoint(step))
    assert folders(store) == ["step-000000000100", "step-000000001000"]
    assert checkpoints.latest().step == 1000


def test_those_by_epoch_are_kept_beside_the_newest_and_after_the_training(store, checkpoints):
    few = StoreCheckpoints(store, OUTPUT, checkpoints._fence, latest=1, kept=2)
    for step, kept in ((1, False), (2, True), (3, False), (4, True), (5, False), (6, True)):
        few.save(dataclasses.replace(checkpoint(step), kept=kept))
    assert folders(store) == ["step-000000000004-kept", "step-000000000005", "step-000000000006-kept"]
    assert few.latest().step == 6
    folder = checkpoint_folder(store, OUTPUT)
    folder.write("progress.json", b"{}")
    delete_passing(folder)
    assert folders(store) == ["step-000000000004-kept", "step-000000000006-kept"]


def test_the_numbers_of_workers_come_back(checkpoints):
    checkpoints.save(dataclasses.replace(checkpoint(7), workers=((0, 2), (5, 1))))
    assert checkpoints.latest().workers == ((0, 2), (5, 1))


def test_a_step_that_is_saved_again_is_replaced(store, checkpoints):
    checkpoints.save(checkpoint(5))
    again = Checkpoint(5, {"online.weight": torch.zeros(1)}, [])
    checkpoints.save(again)
    assert checkpoints.latest().tensors.keys() == {"online.weight"}
    assert folders(store) == ["step-000000000005"]


def test_a_crash_between_tensors_and_state_leaves_the_older_checkpoint(checkpoints, monkeypatch):
    checkpoints.save(checkpoint(1))
    write = Folder.write

    def crash(folder, path, data):
        if path.endswith("/state.json"):
            raise OSError("disk full")
        write(folder, path, data)

    monkeypatch.setattr(Folder, "write", crash)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(checkpoint(2))
    assert checkpoints.latest().step == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_tensors_that_do_not_match_their_hash_fall_back_to_the_older_checkpoint(store, checkpoints, damage):
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    path = checkpoint_folder(store, OUTPUT).local / "step-000000000002" / "tensors.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoints.latest().step == 1


def test_who_was_taken_over_saves_nothing(store, checkpoints):
    checkpoints.save(checkpoint(1))
    folder = lease_folder(store, OUTPUT).local
    (folder / "00000002.json").write_text((folder / "00000001.json").read_text())
    with pytest.raises(LeaseLostError):
        checkpoints.save(checkpoint(2))
    assert folders(store) == ["step-000000000001"]
    StoreCheckpoints(store, OUTPUT, fence=2).save(checkpoint(2))
    assert checkpoints.latest().step == 2


def test_nothing_is_pickled(store, checkpoints):
    checkpoints.save(checkpoint(1))
    folder = checkpoint_folder(store, OUTPUT).local / "step-000000000001"
    assert {path.name for path in folder.iterdir()} == {"state.json", "tensors.safetensors"}
    assert json.loads((folder / "state.json").read_bytes())["step"] == 1


def test_a_loss_that_is_no_number_is_refused(store, checkpoints):
    with pytest.raises(ValueError):
        checkpoints.save(Checkpoint(1, {"a": torch.zeros(1)}, [{"loss": float("nan")}]))
    assert checkpoints.latest() is None
