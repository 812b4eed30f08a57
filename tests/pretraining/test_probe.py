"""A probe in the training loop: when it is asked, and that it changes nothing."""

import math

import torch

from orl_ray import config
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.probe import Probe

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
IMAGE = config.ImageLevel(epochs=2, batch_size=4, view_size=32, warmup_epochs=0.5, learning_rate=0.4)


class Memory:
    """Checkpoints in memory."""

    def __init__(self):
        self.saved = []

    def latest(self) -> Checkpoint | None:
        return self.saved[-1] if self.saved else None

    def save(self, checkpoint: Checkpoint) -> None:
        self.saved.append(checkpoint)


def run(training_set, probe=None):
    store = Memory()
    tensors = train(
        IMAGE,
        ENCODER,
        "image_level",
        0,
        training_set,
        store,
        Place(),
        lambda *_: None,
        Running(checkpoint_seconds=math.inf, probe=probe),
    )
    return tensors, store.saved[-1].history


def asked_at(epochs, total=20, every=1):
    probe, history = Probe(epochs, lambda _: {}), []
    for step in range(every, total + 1, every):
        entry = {"step": step, "epoch": step / 4}
        if probe.is_due(history, entry, total):
            entry["probe_score"] = 1.0
        history.append(entry)
    return [entry["epoch"] for entry in history if "probe_score" in entry]


def test_it_is_asked_at_first_every_so_many_epochs_and_at_the_end():
    assert asked_at(2) == [0.25, 2, 4, 5]
    assert asked_at(0.1) == [step / 4 for step in range(1, 21)]
    assert asked_at(100) == [0.25, 5]


def test_epochs_that_fall_between_logged_steps_wait_for_the_next_one():
    assert asked_at(1, total=21, every=3) == [0.75, 1.5, 2.25, 3, 4.5, 5.25]


def test_a_training_with_a_probe_ends_with_the_very_weights_of_one_without(object_set):
    seen = []

    def score(weights):
        seen.append({name: tensor.clone() for name, tensor in weights.items()})
        torch.rand(3)  # draws of its own are its own affair
        return {"probe_score": float(len(seen))}

    wanted, plain = run(object_set)
    probed, history = run(object_set, Probe(1.0, score))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in probed.items())
    assert [entry.get("probe_score") for entry in history] == [1, None, 2, None, 3]
    assert [entry["loss"] for entry in history] == [entry["loss"] for entry in plain]
    last = {f"online.backbone.{name}": tensor for name, tensor in seen[-1].items()}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in last.items())
