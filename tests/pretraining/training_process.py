"""Training processes that are killed: functions that run in processes of their own."""

import hashlib
import math
import multiprocessing
import os
import signal
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch.distributed as dist

from orl_ray import config
from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.training_set import TrainingSet

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
SETTINGS = {
    "image_level": config.ImageLevel(epochs=5, batch_size=10, view_size=32, warmup_epochs=1, learning_rate=0.05),
    "object_level": config.ObjectLevel(
        epochs=5, batch_size=10, view_size=32, patch_size=16, warmup_epochs=1, learning_rate=0.05
    ),
}
STEPS = 5


def train_here(stage, folder, checkpoints, place, on_step=lambda *_: None):
    """Train in this process; a checkpoint is taken after every step, as soon as the one before is written."""
    store = FolderCheckpoints(Path(checkpoints))
    arguments = (SETTINGS[stage], ENCODER, stage, 0, TrainingSet.open(Path(folder)), store, place)
    return train(*arguments, on_step, Running(checkpoint_seconds=0))


def _train_in_group(rank, size, stage, folder, checkpoints, victim, last_step):
    torch.set_num_threads(1)
    rendezvous = f"file://{checkpoints}/rendezvous-{last_step}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size, timeout=timedelta(minutes=10))

    def on_step(step, _total, _entry):
        if (rank, step) == (victim, last_step):
            os.kill(os.getpid(), signal.SIGKILL)

    train_here(stage, folder, checkpoints, Place(rank, size), on_step)
    dist.destroy_process_group()


def train_in_processes(size, stage, folder, checkpoints, victim=-1, last_step=math.inf):
    """Train in several processes; one kills itself after a step, and the others go with it, as with Ray.

    Returns:
        Exit codes by rank; those of processes that were killed are negative.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orl_ray.pretraining.loop"])
    Path(checkpoints).mkdir(exist_ok=True)
    processes = [
        context.Process(
            target=_train_in_group, args=(rank, size, stage, str(folder), str(checkpoints), victim, last_step)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        wait([process.sentinel for process in processes if process.is_alive()])
        if any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
            break
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def content(checkpoints):
    """Return what the newest checkpoint holds: steps, losses, and a hash of each tensor."""
    found = FolderCheckpoints(checkpoints).latest()
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in found.tensors.items()}
    return found.step, [entry["loss"] for entry in found.history], hashes
