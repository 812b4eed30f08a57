"""The training loop in two processes: it agrees with one process, and resumes from what rank 0 saved."""

import dataclasses
import math
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orl_ray import config
from orl_ray.pretraining import loop
from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.training_set import TrainingSet

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
SETTINGS = config.ObjectLevel(
    epochs=1.8, batch_size=6, view_size=32, patch_size=32, warmup_epochs=1, learning_rate=0.2, ema_horizon=0.5
)


class Stopped(Exception):
    pass


def run(folder, store, place, stop_after=None):
    def on_step(step, total, entry):
        if step == stop_after:
            raise Stopped

    seconds = math.inf if stop_after is None else 0
    return loop.train(
        SETTINGS, ENCODER, "object_level", 0, TrainingSet.open(folder), store, place, on_step, seconds, loader_threads=1
    )


@contextmanager
def double_precision():
    """Train in float64: with six images a batch, batch norm magnifies float32's rounding beyond any useful tolerance."""
    augment = loop.augment
    torch.set_default_dtype(torch.float64)
    loop.augment = lambda images, parameters: augment(images, parameters).double()
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        loop.augment = augment


def worker(rank, folder, output):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=2)
    place = Place(rank, 2)
    with double_precision():
        torch.save(run(folder, FolderCheckpoints(output / "double"), place), output / f"double{rank}.pt")
    final = run(folder, FolderCheckpoints(output / "whole"), place)
    torch.save(final, output / f"final{rank}.pt")
    # Only rank 0 sees its folder: what it reads must reach the other process.
    store = FolderCheckpoints(output / f"interrupted{rank}")
    try:
        run(folder, store, place, stop_after=2)
    except Stopped:
        dist.barrier()
    resumed = run(folder, store, place)
    torch.save(resumed, output / f"resumed{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(object_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("distributed")
    mp.spawn(worker, args=(object_folder, output), nprocs=2)
    return output


def loaded(output, name):
    return torch.load(output / f"{name}.pt", weights_only=True)


def test_two_processes_agree_with_one_to_rounding(two_processes, object_folder, tmp_path):
    with double_precision():
        wanted = run(object_folder, FolderCheckpoints(tmp_path), Place())
    found = loaded(two_processes, "double0")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )
    mine = FolderCheckpoints(two_processes / "double").latest().history
    for entry, reference in zip(mine, FolderCheckpoints(tmp_path).latest().history, strict=True):
        for name in ("loss", "loss_inter", "feature_std", "lr", "ema", "epoch"):
            assert entry[name] == pytest.approx(reference[name], rel=1e-5)


def test_two_processes_agree_with_one_in_single_precision_at_first(two_processes, object_folder, tmp_path):
    run(object_folder, FolderCheckpoints(tmp_path), Place())
    mine = FolderCheckpoints(two_processes / "whole").latest().history
    reference = FolderCheckpoints(tmp_path).latest().history
    assert mine[0]["loss"] == pytest.approx(reference[0]["loss"], rel=1e-4)


def test_both_processes_hold_the_same_weights_and_buffers(two_processes):
    first, second = loaded(two_processes, "final0"), loaded(two_processes, "final1")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("rank", [0, 1])
def test_resumed_processes_end_with_the_very_weights(two_processes, rank):
    wanted, found = loaded(two_processes, "final0"), loaded(two_processes, f"resumed{rank}")
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


def test_only_rank_0_saves(two_processes):
    assert FolderCheckpoints(two_processes / "interrupted0").latest().step == 3
    assert FolderCheckpoints(two_processes / "interrupted1").latest() is None


def test_several_processes_need_a_process_group():
    with pytest.raises(ValueError, match="2 training processes need"):
        Place(0, 2)


def test_batch_must_divide_by_the_processes(object_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "__post_init__", lambda self: None)
    with pytest.raises(ValueError, match="batch of 5 does not divide by 2"):
        loop.train(
            dataclasses.replace(SETTINGS, batch_size=5),
            ENCODER,
            "object_level",
            0,
            TrainingSet.open(object_folder),
            FolderCheckpoints(tmp_path),
            Place(0, 2),
            lambda *_: None,
            0,
            1,
        )
