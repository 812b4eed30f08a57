"""Where a training's backbone starts from: drawn weights, image-level pre-training, or a file from elsewhere.

This is ``init_from``: weights only, of the backbone only, for a new training. A training that was interrupted goes on
by itself from its checkpoints, exactly, whatever it started from.
"""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from orl_ray.config import IMAGE_LEVEL_RESULT, Config
from orl_ray.folders import Folder
from orl_ray.settings import Value
from orl_ray.storage import Store, digest

# Prefixes of the backbone's names: of our checkpoints, and of the reference's. Without any, names are torchvision's.
_PREFIXES = ("online.backbone.", "backbone.")
_OURS = _PREFIXES[0]


def initial_identity(stage: str) -> Callable[[Config], dict[str, Value]]:
    """Return what adds the content of a stage's initial weights to its key: the hash of the file, not its place."""

    def identity(config: Config) -> dict[str, Value]:
        place = _place(config, stage)
        return {"init_from": _content_hash(place)} if place not in ("", IMAGE_LEVEL_RESULT) else {}

    return identity


def initial_backbone(config: Config, store: Store, stage: str, manifests: dict[str, str]) -> dict[str, Tensor] | None:
    """Read the weights that a stage's backbone starts from.

    Args:
        config: the config.
        store: the store.
        stage: ``image_level`` or ``object_level``.
        manifests: keys of the manifests that the stage reads.

    Returns:
        Tensors by torchvision's names, unchecked; None where weights are drawn.

    Raises:
        ValueError: the file is not there, or holds no weights.
        StoreError: image-level pre-training is not in the store.
    """
    from orl_ray.embeddings.encoder import load_weights

    place = _place(config, stage)
    if not place:
        return None
    if place == IMAGE_LEVEL_RESULT:
        return _backbone_of(load_weights(store, place, manifests[place]), _OURS)
    try:
        return read_backbone(place, _read(place))
    except FileNotFoundError as error:
        raise ValueError(f"{stage}.init_from: {place} is not there, or not seen by this node") from error


def read_backbone(place: str, data: bytes) -> dict[str, Tensor]:
    """Read a backbone's weights from a file's bytes.

    Args:
        place: the file's name: what ends in ``.safetensors`` is that, anything else was written by ``torch.save``.
        data: its content: tensors by name, or a dictionary that holds them as ``state_dict``.

    Returns:
        Tensors by name, of a file with prefixed names those of its (online) backbone only, without the prefix.

    Raises:
        ValueError: it holds no tensors by name.
    """
    import safetensors.torch
    import torch

    if place.endswith(".safetensors"):
        content: dict[str, Any] = safetensors.torch.load(data)
    else:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        content = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise ValueError(f"{place}: holds no tensors by name")
    for prefix in _PREFIXES:
        if found := _backbone_of(tensors, prefix):
            return found
    return tensors


def _backbone_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _place(config: Config, stage: str) -> str:
    return str(getattr(config, stage).init_from)


def _read(place: str) -> bytes:
    if "://" in place:
        folder, _, name = place.rpartition("/")
        return Folder(folder).read(name)
    return Path(place).read_bytes()


@functools.cache  # a run plans after every stage; what the file was at first is what the run is about
def _content_hash(place: str) -> str:
    return digest(_read(place))
