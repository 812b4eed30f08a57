"""The RoIs of an image to vectors, in either of two ways.

``crop`` (published): each RoI's own crop goes through the network. ``align``: the whole image goes through it once,
and RoIs are read off its last feature map by RoIAlign (He et al., "Mask R-CNN", 2017), which costs a fraction. Such a
vector sees its surroundings too, and small RoIs cover few cells.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from orl_ray.embeddings.device_crops import crop_resize_all
from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.on_their_way import arrived, to_device
from orl_ray.embeddings.vectors import Embedded, colours, embed_blocks, unit
from orl_ray.scenes.decode import crop_resize, resize_longer

# An image, and the (n, 4) int32 xywh boxes of its RoIs, pixels.
Scene = tuple[NDArray[np.uint8], NDArray[np.int32]]
# RoIAlign averages a grid of so many points a side over each RoI: as fine as an image's cells or finer.
_POINTS = 8
_STRIDE = 32


def embed_crops(encoder: FrozenEncoder, scenes: Iterable[Scene], side: int, batch_size: int) -> Embedded:
    """Embed each RoI's crop, resized to a square.

    Args:
        encoder: the network.
        scenes: images and their RoIs, read as batches fill.
        side: side of the crops, pixels.
        batch_size: crops a forward pass, filled across images.

    Returns:
        Vectors in the order of the RoIs; each RoI is one forward.
    """
    return embed_blocks(encoder, (crops_of(scene, side, encoder.device) for scene in scenes), batch_size)


def crops_of(scene: Scene, side: int, device: torch.device) -> Tensor:
    """Return all RoIs of an image as (n, side, side, 3) uint8 crops on a device.

    A GPU cuts them out of the image itself. The CPU has Pillow, whose bits those are, and which is several times as
    fast there (``benchmarks.embedding``).
    """
    image, boxes = scene
    if device.type != "cpu":
        return crop_resize_all(to_device(image, device), boxes, side)
    crops = np.empty((len(boxes), side, side, 3), np.uint8)
    for row, box in enumerate(boxes):
        crops[row] = crop_resize(image, box, side)
    return torch.from_numpy(crops)


def embed_aligned(encoder: FrozenEncoder, scenes: Iterable[Scene], longer: int) -> Embedded:
    """Read RoIs off the feature map of their image.

    Images go through the network one by one, each in its own shape, so that no vector depends on other images.

    Args:
        encoder: the network, without a projector.
        scenes: images and their RoIs, at least one each.
        longer: longer side to which an image is resized, pixels.

    Returns:
        Vectors in the order of the RoIs; each image is one forward.

    Raises:
        ValueError: a vector is zero or not finite: the network has collapsed or its weights are broken.
    """
    forwards = 0

    def outputs() -> Iterator[Tensor]:
        nonlocal forwards
        for image, boxes in scenes:
            forwards += 1
            yield _aligned(encoder, image, boxes, longer)

    chunks = [unit(vectors) for vectors in arrived(outputs())]
    return Embedded(np.concatenate([np.empty((0, encoder.features), np.float16), *chunks]), forwards, 0)


def _aligned(encoder: FrozenEncoder, image: NDArray[np.uint8], boxes: NDArray[np.int32], longer: int) -> Tensor:
    """Return (n, C) float32 means of the feature map over boxes, on the network's device."""
    resized = resize_longer(image, longer)
    scale = np.array(resized.shape[1::-1]) / np.array(image.shape[1::-1])
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) * np.tile(scale, 2) + _STRIDE / 2
    with torch.inference_mode():
        maps = encoder.maps(colours(to_device(resized[None], encoder.device)))
        on_device = torch.from_numpy(corners.astype(np.float32)).to(encoder.device)
        # Cell i is centred on pixel 32 i (see Backbone.maps), half a cell before where ``aligned`` takes it to be.
        # Without ``aligned``, boxes narrower than a cell would be widened to one side.
        found = roi_align(
            maps.contiguous(), [on_device], 1, spatial_scale=1 / _STRIDE, sampling_ratio=_POINTS, aligned=True
        )
    vectors: Tensor = found.flatten(1)
    return vectors
