"""Training an arm, once: what is finished is kept, and what was cut off goes on from its last checkpoint."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.fresh_encoder import fresh_weights
from benchmarks.proof.arms import Arm
from benchmarks.proof.supervised import train_supervised
from orl_ray import config
from orl_ray.embeddings.encoder import WEIGHTS
from orl_ray.embeddings.vectors import colours
from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.scenes.decode import crop_resize, decode

RECORD = "training.json"
STATISTICS_IMAGES = 256
_CHECKPOINT_SECONDS = 30.0
_LOADER_THREADS = 1
_KEPT = ("online.backbone.", "online.projector.")

ReadLabels = Callable[[], Tensor]
"""Reads the (N, C) float labels of a training set; called for no arm but those that read labels."""


def train_arm(
    arm: Arm,
    settings: config.Pretraining,
    whole: config.Config,
    training_set: TrainingSet,
    folder: Path,
    read_labels: ReadLabels,
) -> None:
    """Train an arm, unless its folder says that it is trained.

    Args:
        arm: what to train.
        settings: of its training; ``config.ObjectLevel`` for ORL.
        whole: the encoder's sizes and the seed.
        training_set: with the arm's pairs.
        folder: holds ``model.safetensors`` and ``training.json`` (the measurements) when the arm is trained, and
            checkpoints before.
        read_labels: for the supervised arm.
    """
    if (folder / RECORD).is_file():
        return
    checkpoints, on_step = FolderCheckpoints(folder / "checkpoints"), _progress(arm.name)
    device = torch.device("cuda" if whole.execution.use_gpu else "cpu")
    if arm.method == "untrained":
        tensors = fresh_weights(whole, _statistics_images(whole, training_set))
    elif arm.method == "supervised":
        tensors = train_supervised(
            settings,
            whole.encoder,
            whole.seed,
            training_set,
            read_labels(),
            device,
            checkpoints,
            on_step,
            _CHECKPOINT_SECONDS,
        )
    else:
        tensors = train(
            settings,
            whole.encoder,
            "object_level" if arm.method == "orl" else "image_level",
            whole.seed,
            training_set,
            checkpoints,
            Place(device=device),
            on_step,
            Running(checkpoint_seconds=_CHECKPOINT_SECONDS, loader_threads=_LOADER_THREADS),
        )
    latest = checkpoints.latest()
    _keep(folder, tensors, latest.history if latest else [])


def trained_weights(folder: Path) -> dict[str, Tensor]:
    """Return the backbone, and the projector if there is one, of a trained arm."""
    return load_file(folder / WEIGHTS)


def measurements(folder: Path) -> list[dict[str, float]]:
    """Return what was measured while an arm was trained, one entry a logged step; nothing for the untrained one."""
    history: list[dict[str, float]] = json.loads((folder / RECORD).read_bytes())["history"]
    return history


def _keep(folder: Path, tensors: dict[str, Tensor], history: list[dict[str, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name.startswith(_KEPT)}
    save_file(kept, folder / WEIGHTS)
    hidden = folder / f".{RECORD}"
    hidden.write_text(json.dumps({"history": history}))
    hidden.replace(folder / RECORD)  # last, and at once: it says that the rest is there
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _statistics_images(whole: config.Config, training_set: TrainingSet) -> Tensor:
    crops = []
    for position in range(min(STATISTICS_IMAGES, len(training_set))):
        pixels = decode(training_set.image_bytes(position), training_set.max_pixels)
        box = torch.tensor([0, 0, pixels.shape[1], pixels.shape[0]]).numpy()
        crops.append(torch.from_numpy(crop_resize(pixels, box, whole.embeddings.image_crop)))
    return colours(torch.stack(crops))


def _progress(name: str) -> Callable[[int, int, dict[str, float]], None]:
    def tell(step: int, total: int, entry: dict[str, float]) -> None:
        if step % max(1, total // 10) == 0 or step == total:
            loss = f", loss {entry['loss']:.3f}" if "loss" in entry else ""
            print(f"{name}: step {step} of {total}{loss}", file=sys.stderr, flush=True)

    return tell
