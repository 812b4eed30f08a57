"""A training of any method and optimiser that was killed and goes on ends with the very weights, queue and moments."""

import math
from contextlib import suppress

import pytest
import torch

from orl_ray import config
from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
COMMON = {"epochs": 1.5, "batch_size": 4, "view_size": 32, "warmup_epochs": 0, "learning_rate": 0.01}


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "optimizer", "last_batch"),
    [("moco", "adamw", "dropped"), ("simclr", "lars", "short"), ("byol", "adamw", "full")],
)
def test_resumed_training_ends_with_the_same_tensors(object_set, tmp_path, method, optimizer, last_batch):
    settings = config.ImageLevel(
        **COMMON, method=method, optimizer=optimizer, last_batch=last_batch, exempt_norms_and_biases=True, queue=7
    )

    def run(name, seconds, kill_after=None):
        def on_step(step, _total, _entry):
            if step == kill_after:
                raise Killed

        checkpoints = FolderCheckpoints(tmp_path / name)
        running = Running(checkpoint_seconds=seconds)
        return train(settings, ENCODER, "image_level", 0, object_set, checkpoints, Place(), on_step, running)

    whole = run("whole", math.inf)
    with suppress(Killed):
        run("killed", 0, kill_after=2)
    resumed = run("killed", math.inf)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert ("queue" in whole) == (method == "moco")
