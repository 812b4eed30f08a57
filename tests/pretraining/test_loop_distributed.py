"""The training loop in two processes: it agrees with one process, and resumes from what rank 0 saved."""

import dataclasses
import hashlib
import math
from contextlib import contextmanager, suppress

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orl_ray import config
from orl_ray.pretraining import loop
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.probe import Probe
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
SETTINGS = config.ObjectLevel(  # without the whole-image term: each pass costs 40 exchanges of statistics
    epochs=1.2,
    batch_size=6,
    view_size=32,
    patch_size=16,
    warmup_epochs=1,
    learning_rate=0.2,
    ema_horizon=0.5,
    global_weight=0.0,
    inter_weight=0.5,
)


class Memory:
    """Checkpoints in the memory of one process."""

    def __init__(self):
        self.saved = []

    def latest(self) -> Checkpoint | None:
        return self.saved[-1] if self.saved else None

    def save(self, checkpoint: Checkpoint) -> None:
        self.saved.append(checkpoint)


class Stopped(Exception):
    pass


def run(folder, store, place, stop_after=None, probe=None):
    def on_step(step, total, entry):
        if step == stop_after:
            raise Stopped

    seconds = math.inf if stop_after is None else 0
    return loop.train(
        SETTINGS, ENCODER, "object_level", 0, TrainingSet.open(folder), store, place, on_step, seconds, 1, probe
    )


@contextmanager
def double_precision():
    """Train in float64: on six images a batch, batch norm magnifies the rounding of float32 beyond any tolerance."""
    augment = loop.augment
    torch.set_default_dtype(torch.float64)
    loop.augment = lambda images, parameters: augment(images, parameters).double()
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        loop.augment = augment


def digests(tensors):
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def worker(rank, folder, sparse_folder, output):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=2)
    place = Place(rank, 2)
    with double_precision():
        whole, interrupted = Memory(), Memory()
        probe = Probe(1.0, lambda weights: {"probe_tensors": float(len(weights))}) if rank == 0 else None
        final = run(folder, whole, place, probe=probe)
        with suppress(Stopped):
            run(folder, interrupted, place, stop_after=1)
        saved_steps = [checkpoint.step for checkpoint in interrupted.saved]
        resumed = run(folder, interrupted, place)  # rank 1 finds no checkpoint: rank 0's must reach it
        lonely = Memory()
        sparse = run(sparse_folder, lonely, place)
    rows = place.gather(torch.full((1 + 2 * rank, 3), float(rank)))
    report = {"final": digests(final), "resumed": digests(resumed), "saved_steps": saved_steps, "gathered": rows}
    torch.save(report, output / f"report{rank}.pt")
    if rank == 0:
        torch.save({"tensors": final, "history": whole.saved[-1].history}, output / "whole.pt")
        torch.save({"tensors": sparse, "history": lonely.saved[-1].history}, output / "sparse.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sparse_folder(object_folder, tmp_path_factory):
    """Return a training set in which one image alone has a neighbour: in every batch a whole process has none."""
    whole, folder = TrainingSet.open(object_folder), tmp_path_factory.mktemp("sparse") / "set"
    with TrainingSetWriter(folder, whole.max_pixels) as writer:
        for position, image_id in enumerate(whole.image_ids.tolist()):
            rows = [(row.neighbor_id, row.query_boxes, row.neighbor_boxes) for row in whole.rows(position)]
            writer.add(image_id, whole.image_bytes(position), whole.rois(position), rows if position == 0 else ())
    return folder


@pytest.fixture(scope="module")
def two_processes(object_folder, sparse_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("distributed")
    mp.spawn(worker, args=(object_folder, sparse_folder, output), nprocs=2)
    return {path.stem: torch.load(path, weights_only=True) for path in output.glob("*.pt")}


def test_in_every_batch_of_the_sparse_set_a_process_has_no_sample_with_a_neighbour(sparse_folder):
    sparse = TrainingSet.open(sparse_folder)
    stream = SampleStream(0, "object_level", len(sparse), SETTINGS.batch_size, 2)
    with_rows = [
        [
            sum(int((sparse.row_counts(part.positions) > 0).sum()) for part in stream.share(step, rank))
            for rank in (0, 1)
        ]
        for step in range(stream.total_steps(SETTINGS.epochs))
    ]
    assert all(0 in counts for counts in with_rows)
    assert any(sum(counts) for counts in with_rows)


@pytest.mark.parametrize("which", ["whole", "sparse"])
def test_two_processes_agree_with_one_to_rounding(two_processes, object_folder, sparse_folder, which):
    store, found = Memory(), two_processes[which]
    with double_precision():
        wanted = run({"whole": object_folder, "sparse": sparse_folder}[which], store, Place())
    assert found["tensors"].keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            found["tensors"][name], tensor, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )
    for entry, reference in zip(found["history"], store.saved[-1].history, strict=True):
        for name in ("loss", "loss_inter", "feature_std", "alignment", "uniformity", "lr", "ema", "epoch"):
            assert entry[name] == pytest.approx(reference[name], rel=1e-5)


def test_both_processes_hold_the_same_weights_and_buffers(two_processes):
    assert two_processes["report0"]["final"] == two_processes["report1"]["final"]


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_of_uneven_shares_are_gathered_in_the_order_of_ranks(two_processes, rank):
    gathered = two_processes[f"report{rank}"]["gathered"]
    assert gathered.tolist() == [[0.0] * 3, [1.0] * 3, [1.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("rank", [0, 1])
def test_resumed_processes_end_with_the_very_weights(two_processes, rank):
    report = two_processes[f"report{rank}"]
    assert report["resumed"] == report["final"]


def test_rank_0_alone_scores_a_probe_and_no_other_waits_for_it_forever(two_processes):
    scored = [entry.get("probe_tensors") for entry in two_processes["whole"]["history"]]
    assert scored[0] == scored[-1] > 100


def test_only_rank_0_saves(two_processes):
    assert two_processes["report0"]["saved_steps"] == [1]
    assert two_processes["report1"]["saved_steps"] == []


def test_several_processes_need_a_process_group():
    with pytest.raises(ValueError, match="2 training processes need"):
        Place(0, 2)


def test_batch_must_divide_by_the_processes(object_folder, monkeypatch):
    monkeypatch.setattr(Place, "__post_init__", lambda self: None)
    with pytest.raises(ValueError, match="batch of 5 does not divide by 2"):
        loop.train(
            dataclasses.replace(SETTINGS, batch_size=5),
            ENCODER,
            "object_level",
            0,
            TrainingSet.open(object_folder),
            Memory(),
            Place(0, 2),
            lambda *_: None,
            0,
            1,
        )
