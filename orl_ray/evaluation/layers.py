"""Features of five depths of a ResNet, pooled to grids of about 9,000 numbers (specification 5.1; OpenSelfSup v0.3)."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from orl_ray.encoders.backbones import Backbone

SIDE = 224  # the pools below are made for images of this side


@dataclass(frozen=True, slots=True)
class Pool:
    """An average pool; padding counts as zeros.

    Attributes:
        kernel, stride, padding: pixels of the map.
        side: side of the pooled map, for images of 224 pixels.
    """

    kernel: int
    stride: int
    padding: int
    side: int


POOLS = {
    "conv1": Pool(10, 10, 4, 12),
    "res2": Pool(16, 8, 0, 6),
    "res3": Pool(13, 5, 0, 4),
    "res4": Pool(8, 3, 0, 3),
    "res5": Pool(6, 1, 0, 2),
}
LAYERS = tuple(POOLS)
# The child of the backbone behind which a layer is taken: conv1 behind its batch norm and ReLU, before the max pool.
_TAPS = {"relu": "conv1", "layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}


def layer_maps(backbone: Backbone, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    """Return the maps of some layers; nothing behind the last of them is computed.

    Args:
        backbone: any ResNet.
        images: (n, 3, height, width) float, normalised.
        layers: names out of ``LAYERS``.

    Returns:
        Layer -> (n, channels, height', width'), in the order of depth.

    Raises:
        ValueError: a layer is unknown.
    """
    unknown = sorted(set(layers) - set(LAYERS))
    if unknown:
        raise ValueError(f"unknown layer {unknown[0]!r}; choose from {', '.join(LAYERS)}")
    maps: dict[str, Tensor] = {}
    for name, child in backbone.named_children():
        if len(maps) == len(set(layers)):
            break
        images = child(images)
        if (layer := _TAPS.get(name)) in layers and layer is not None:
            maps[layer] = images
    return maps


def pooled(layer: str, maps: Tensor) -> Tensor:
    """Pool the map of a layer.

    Args:
        layer: its name.
        maps: (n, channels, height, width), of images of 224 pixels.

    Returns:
        (n, channels, side, side).

    Raises:
        ValueError: the map does not give the layer's grid: the images were of another size.
    """
    pool = POOLS[layer]
    grid = torch.nn.functional.avg_pool2d(maps, pool.kernel, pool.stride, pool.padding)
    if grid.shape[2:] != (pool.side, pool.side):
        raise ValueError(f"{layer} gives a grid of {tuple(grid.shape[2:])}: its pool takes images of {SIDE} pixels")
    return grid


def channels(backbone: Backbone) -> dict[str, int]:
    """Return the number of channels of each layer, by a pass of one image."""
    with torch.no_grad():
        weight = next(backbone.parameters())
        training = backbone.training
        maps = layer_maps(backbone.eval(), weight.new_zeros(1, 3, 32, 32), LAYERS)
        backbone.train(training)
    return {layer: values.shape[1] for layer, values in maps.items()}
