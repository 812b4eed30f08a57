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
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
OBJECT = config.ObjectLevel(
    epochs=3, batch_size=6, view_size=32, patch_size=16, warmup_epochs=1, learning_rate=0.2, inter_weight=0.5
)
IMAGE = config.ImageLevel(epochs=3, batch_size=6, view_size=32, warmup_epochs=1, learning_rate=0.2)
SHORT = dataclasses.replace(OBJECT, epochs=1.2, global_weight=0.0)  # each pass costs 40 exchanges of statistics
# Case -> (settings, number of processes that train from a step on).
CASES = {
    "image_level": (IMAGE, {0: 2}),
    "object_level": (OBJECT, {0: 2}),
    "sparse": (SHORT, {0: 2}),
    "uneven_passes": (dataclasses.replace(IMAGE, epochs=1.2, micro_batch=3), {0: 2}),
    "elastic": (dataclasses.replace(IMAGE, epochs=1.8), {0: 2, 1: 1, 2: 2}),
}


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


def run(folder, settings, store, place, stop_after=None, probe=None):
    def on_step(step, total, entry):
        if step == stop_after:
            raise Stopped

    stage = "object_level" if isinstance(settings, config.ObjectLevel) else "image_level"
    every_step = settings.batch_size / 10
    arguments = (settings, ENCODER, stage, 0, TrainingSet.open(folder), store, place, on_step)
    return loop.train(*arguments, loop.Running(checkpoint_seconds=math.inf, checkpoint_epochs=every_step, probe=probe))


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


def run_with(processes, folder, settings, rank):
    """Train in processes whose number changes; return this one's final tensors and what it saved."""
    store, final = Memory(), None
    ends = [*list(processes)[1:], None]
    for size, end in zip(processes.values(), ends, strict=True):
        with suppress(Stopped):
            if rank < size:  # the others wait for what rank 0 hands out when it goes on
                place = Place(rank, size) if size > 1 else Place()
                probe = Probe(0.01, lambda weights: {"probe_tensors": float(len(weights))}) if rank == 0 else None
                final = run(folder, settings, store, place, end, probe)
    return final, store.saved


def worker(rank, folder, sparse_folder, output):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=2)
    found = {}
    with double_precision():
        for case, (settings, processes) in CASES.items():
            final, saved = run_with(processes, sparse_folder if case == "sparse" else folder, settings, rank)
            found[case] = {
                "tensors": final,
                "history": saved[-1].history if saved else [],
                "workers": saved[-1].workers if saved else (),
                "saved_steps": [checkpoint.step for checkpoint in saved],
            }
    torch.save(found, output / f"rank{rank}.pt")
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
    return [torch.load(output / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_in_every_batch_of_the_sparse_set_a_process_has_no_sample_with_a_neighbour(sparse_folder):
    sparse = TrainingSet.open(sparse_folder)
    stream = SampleStream(0, "object_level", len(sparse), SHORT.batch_size)
    with_rows = [
        [
            sum(int((sparse.row_counts(part.positions) > 0).sum()) for part in stream.share(Share(step, rank, 2)))
            for rank in (0, 1)
        ]
        for step in range(stream.total_steps(SHORT.epochs))
    ]
    assert all(0 in counts for counts in with_rows)
    assert any(sum(counts) for counts in with_rows)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_agree_with_one_to_rounding(two_processes, object_folder, sparse_folder, case):
    """In float64; what is no parameter (running statistics, momenta) is larger, and so is its rounding."""
    store, found = Memory(), two_processes[0][case]
    with double_precision():
        wanted = run(sparse_folder if case == "sparse" else object_folder, CASES[case][0], store, Place())
    assert found["tensors"].keys() == wanted.keys()
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    for name, tensor in wanted.items():
        is_parameter = not name.startswith("optimizer.") and not name.endswith(buffers)
        allowed = 1e-10 if is_parameter else 1e-7
        torch.testing.assert_close(
            found["tensors"][name], tensor, rtol=0, atol=allowed, msg=lambda text, name=name: f"{name}: {text}"
        )
    for entry, reference in zip(found["history"], store.saved[-1].history, strict=True):
        measured = {"lr", "ema", "epoch", *(name for name in reference if name.startswith("loss"))}
        if case != "elastic":  # features are measured over the steps since a training went on
            measured |= {"feature_std", "alignment", "uniformity"}
        for name in measured:
            assert entry[name] == pytest.approx(reference[name], rel=1e-5)


def test_five_steps_are_compared_in_both_stages(two_processes):
    for case in ("image_level", "object_level"):
        assert [entry["step"] for entry in two_processes[0][case]["history"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_weights_and_buffers(two_processes, case):
    first, second = (digests(found[case]["tensors"]) for found in two_processes)
    assert first == second


def test_the_numbers_of_processes_are_noted_with_the_step_from_which_on_they_train(two_processes):
    noted = {case: found["workers"] for case, found in two_processes[0].items()}
    assert noted.pop("elastic") == ((0, 2), (1, 1), (2, 2))
    assert set(noted.values()) == {((0, 2),)}
    assert [entry["workers"] for entry in two_processes[0]["elastic"]["history"]] == [2, 1, 2]


def test_rank_0_alone_scores_a_probe_and_no_other_waits_for_it_forever(two_processes):
    scored = [entry.get("probe_tensors") for entry in two_processes[0]["image_level"]["history"]]
    assert scored[0] == scored[-1] > 100


def test_only_rank_0_saves(two_processes):
    assert two_processes[0]["elastic"]["saved_steps"] == [1, 2, 3]
    assert all(found["saved_steps"] == [] for found in two_processes[1].values())


def test_several_processes_need_a_process_group():
    with pytest.raises(ValueError, match="2 training processes need"):
        Place(0, 2)


def test_every_process_needs_a_sample_in_each_pass(object_folder, monkeypatch):
    monkeypatch.setattr(Place, "__post_init__", lambda self: None)
    with pytest.raises(ValueError, match="4 training processes cannot share 3 images a pass"):
        loop.Passes(SampleStream(0, "image_level", 10, 6), 3, Place(0, 4))


@pytest.mark.parametrize(("batch", "micro", "size"), [(12, 12, 5), (12, 4, 3), (10, 5, 4), (7, 7, 2)])
def test_passes_hold_the_same_samples_for_any_number_of_processes(monkeypatch, batch, micro, size):
    monkeypatch.setattr(Place, "__post_init__", lambda self: None)
    stream = SampleStream(0, "image_level", 10, batch)

    def positions(share):
        return [place for part in stream.share(share) for place in part.positions.tolist()]

    alone = [positions(share) for share in loop.Passes(stream, micro, Place()).of_step(3)]
    ranks = [loop.Passes(stream, micro, Place(rank, size)).of_step(3) for rank in range(size)]
    together = [[place for share in shares for place in positions(share)] for shares in zip(*ranks, strict=True)]
    assert together == alone
    assert len(alone) == batch // micro
    assert [place for one in alone for place in one] == positions(Share(3))
