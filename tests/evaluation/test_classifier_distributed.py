"""Classifiers trained by two processes: they agree with one, and both must see the same checkpoints."""

import math
from dataclasses import replace
from pathlib import Path

import published_layouts
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.evaluation.classifier_loop import train_classifier
from orl_ray.evaluation.recipes import LINEAR, semi_supervised
from orl_ray.evaluation.single_label_layouts import imagenet
from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.place import Place

LAYERS = replace(LINEAR["imagenet"]["layers-28"], epochs=1, batch=6)
TUNED = replace(semi_supervised(1)[4], epochs=1, batch=6, side=64)


def run(root, folder, place, recipe=LAYERS):
    backbone = build_backbone("resnet18")
    initialise(backbone, 0, "backbone")
    splits = imagenet(root, "train"), imagenet(root, "val")
    return train_classifier(
        backbone,
        recipe,
        *splits,
        seed=0,
        checkpoints=FolderCheckpoints(folder),
        place=place,
        on_step=lambda *_: None,
        checkpoint_seconds=math.inf,
        threads=1,
    )


def worker(rank, root, output):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=2)
    place = Place(rank, 2)
    history = run(root, output / "shared", place)
    run(root, output / "tuned", place, TUNED)
    dist.barrier()  # rank 0 has saved
    again = run(root, output / "shared", place)
    try:
        run(root, output / "shared" if rank == 0 else output / "another", place)
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    torch.save({"history": history, "again": again, "refusal": refusal}, output / f"report{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return published_layouts.imagenet(tmp_path_factory.mktemp("data"), train=2, val=1)


@pytest.fixture(scope="module")
def together(root, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("together")
    mp.spawn(worker, args=(root, output), nprocs=2)
    return output


def test_two_processes_agree_with_one(root, together, tmp_path):
    history = run(root, tmp_path, Place())
    alone, shared = FolderCheckpoints(tmp_path).latest(), FolderCheckpoints(together / "shared").latest()
    assert alone.step == shared.step == 1
    assert alone.tensors.keys() == shared.tensors.keys()
    for name, tensor in alone.tensors.items():
        torch.testing.assert_close(shared.tensors[name], tensor, atol=2e-5, rtol=1e-3, msg=name)
    reports = [torch.load(together / f"report{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert reports[0]["history"] == reports[1]["history"]
    assert [entry["epoch"] for entry in history] == [entry["epoch"] for entry in reports[0]["history"]]


def test_two_processes_fine_tune_with_the_statistics_of_the_whole_batch(root, together, tmp_path):
    run(root, tmp_path, Place(), TUNED)
    alone, shared = (FolderCheckpoints(folder).latest().tensors for folder in (tmp_path, together / "tuned"))
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        difference = (shared[name].double() - tensor.double()).norm() / tensor.double().norm().clamp(min=1e-9)
        assert difference < 1e-3, name


def test_a_finished_training_is_the_same_for_all_processes(together):
    for rank in (0, 1):
        report = torch.load(together / f"report{rank}.pt", weights_only=True)
        assert report["again"] == report["history"]


def test_processes_that_see_different_checkpoints_refuse(together):
    reports = [torch.load(together / f"report{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all("all of them share" in report["refusal"] for report in reports)
