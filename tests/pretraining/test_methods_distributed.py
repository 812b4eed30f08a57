"""Two processes agree with one: MoCo with its queue, SimCLR over the global batch, and an uneven short last batch."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from orl_ray import config
from orl_ray.pretraining import loop
from orl_ray.pretraining.gather import gather_rows
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
COMMON = {"batch_size": 6, "last_batch": "short", "view_size": 40, "warmup_epochs": 0, "learning_rate": 0.2}
SETTINGS = {  # nine images: each epoch ends in a batch of three, one for rank 0 and two for rank 1
    "moco": config.ImageLevel(**COMMON, epochs=2, method="moco", queue=5, ema_base=0.9, ema_final=0.9),
    "simclr": config.ImageLevel(**COMMON, epochs=1, method="simclr", optimizer="lars", merge_views=True),
    "inter": config.ObjectLevel(**COMMON, epochs=1, patch_size=40, global_weight=0, intra_weight=0),
}


class Memory:
    """Checkpoints in the memory of one process."""

    def __init__(self):
        self.saved = []

    def latest(self):
        return self.saved[-1] if self.saved else None

    def save(self, checkpoint):
        self.saved.append(checkpoint)


def run_all(folder, place, monkeypatch):
    """Train in float64, in which two processes can agree closely."""
    augment = loop.augment
    monkeypatch.setattr(loop, "augment", lambda images, parameters: augment(images, parameters).double())
    torch.set_default_dtype(torch.float64)
    results = {}
    for name, settings in SETTINGS.items():
        stage = "object_level" if name == "inter" else "image_level"
        store = Memory()
        tensors = loop.train(
            settings,
            ENCODER,
            stage,
            0,
            TrainingSet.open(folder),
            store,
            place,
            lambda *_: None,
            loop.Running(checkpoint_seconds=math.inf),
        )
        losses = [(entry["loss"], entry["feature_std"]) for entry in store.saved[-1].history] if store.saved else []
        results[name] = {"tensors": tensors, "losses": torch.tensor(losses)}
    torch.set_default_dtype(torch.float32)
    return results


def gather_case(rank):
    """Return a process' gradient of a loss over all rows, weighted by the process; rank 0 has no row, rank 1 three."""
    everything = torch.arange(6.0, dtype=torch.float64).reshape(3, 2) + 1
    own = (everything if rank else everything[:0]).clone().requires_grad_()
    rows, start = gather_rows(own)
    ((rank + 1) * rows.square().sum()).backward()
    return {"rows": rows.detach(), "start": torch.tensor(start), "gradient": own.grad}


def worker(rank, folder, output):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        results = run_all(folder, Place(rank, 2), monkeypatch)
    torch.save({"results": results, "gathered": gather_case(rank)}, output / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def nine_images(object_folder, tmp_path_factory):
    whole, folder = TrainingSet.open(object_folder), tmp_path_factory.mktemp("nine") / "set"
    ids = whole.image_ids[:9].tolist()
    with TrainingSetWriter(folder, whole.max_pixels) as writer:
        for position, image_id in enumerate(ids):
            rows = [
                (row.neighbor_id, row.query_boxes, row.neighbor_boxes)
                for row in whole.rows(position)
                if row.neighbor_id in ids
            ]
            writer.add(image_id, whole.image_bytes(position), whole.rois(position), rows)
    return folder


@pytest.fixture(scope="module")
def two_processes(nine_images, tmp_path_factory):
    output = tmp_path_factory.mktemp("methods")
    mp.spawn(worker, args=(nine_images, output), nprocs=2)
    return [torch.load(output / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one_process(nine_images):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run_all(nine_images, Place(), monkeypatch)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_agree_with_one_to_rounding(two_processes, one_process, name):
    found, wanted = two_processes[0]["results"][name], one_process[name]
    assert found["tensors"].keys() == wanted["tensors"].keys()
    for entry, tensor in wanted["tensors"].items():
        torch.testing.assert_close(
            found["tensors"][entry], tensor, rtol=1e-6, atol=1e-8, msg=lambda text, entry=entry: f"{entry}: {text}"
        )
    torch.testing.assert_close(found["losses"], wanted["losses"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_both_processes_hold_the_same_state(two_processes, name):
    first, second = (results["results"][name]["tensors"] for results in two_processes)
    assert all(torch.equal(tensor, second[entry]) for entry, tensor in first.items())


def test_rows_are_gathered_in_the_order_of_ranks_and_their_gradients_summed(two_processes):
    first, second = (results["gathered"] for results in two_processes)
    everything = torch.arange(6.0, dtype=torch.float64).reshape(3, 2) + 1
    for gathered in (first, second):
        assert torch.equal(gathered["rows"], everything)
        assert gathered["start"] == 0
    assert first["gradient"].shape == (0, 2)
    assert torch.equal(second["gradient"], (1 + 2) * 2 * everything)
