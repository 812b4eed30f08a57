"""What other libraries call the tensors of a ResNet, name by name.

Every naming is one-to-one, so the same functions write files for a library and read files that it wrote.
"""

import re
from typing import NamedTuple

_STEM = re.compile(r"(conv|bn)(1)\.(\w+)")
_CONVOLUTION = re.compile(r"layer([1-4])\.(\d+)\.(conv|bn)([123])\.(\w+)")
_SHORTCUT = re.compile(r"layer([1-4])\.(\d+)\.downsample\.([01])\.(\w+)")


class _Place(NamedTuple):
    """Where in a ResNet a tensor lies.

    Attributes:
        stage: 0 for the stem, then 1 to 4.
        block: residual block in the stage, from 0.
        layer: convolution in the block, from 1; 0 for the shortcut.
        is_norm: whether it is of the batch norm behind the convolution.
        tensor: ``weight``, ``bias``, ``running_mean``, ``running_var`` or ``num_batches_tracked``.
    """

    stage: int
    block: int
    layer: int
    is_norm: bool
    tensor: str


def torchvision_name(name: str) -> str:
    """Return a tensor's name in torchvision and timm, which is its name here."""
    return name


def detectron2_name(name: str) -> str:
    """Return a tensor's name in detectron2's ``ResNet``.

    As detectron2's own ``tools/convert-torchvision-to-d2.py`` and the reference's converter rename (specification 5.4).

    Args:
        name: the name in torchvision.

    Raises:
        ValueError: it is no tensor of a ResNet without classifier.
    """
    place = _place(name)
    block = f"res{place.stage + 1}.{place.block}" if place.stage else "stem"
    layer = f"conv{place.layer}" if place.layer else "shortcut"
    return ".".join([block, layer, *(["norm"] if place.is_norm else []), place.tensor])


def huggingface_name(name: str) -> str:
    """Return a tensor's name in transformers' ``ResNetModel``.

    Args:
        name: the name in torchvision.

    Raises:
        ValueError: it is no tensor of a ResNet without classifier.
    """
    place = _place(name)
    layer = f"layer.{place.layer - 1}" if place.layer else "shortcut"
    block = f"encoder.stages.{place.stage - 1}.layers.{place.block}.{layer}" if place.stage else "embedder.embedder"
    return f"{block}.{'normalization' if place.is_norm else 'convolution'}.{place.tensor}"


def _place(name: str) -> _Place:
    if found := _STEM.fullmatch(name):
        return _Place(0, 0, 1, found[1] == "bn", found[3])
    if found := _CONVOLUTION.fullmatch(name):
        return _Place(int(found[1]), int(found[2]), int(found[4]), found[3] == "bn", found[5])
    if found := _SHORTCUT.fullmatch(name):
        return _Place(int(found[1]), int(found[2]), 0, found[3] == "1", found[4])
    raise ValueError(f"{name!r} is no tensor of a ResNet without classifier")
