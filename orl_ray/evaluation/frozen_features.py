"""Features of image files under a frozen backbone: the pooled grids of its layers, and its pooled vector."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.vectors import colours
from orl_ray.evaluation.image_views import views, warped
from orl_ray.evaluation.layers import LAYERS, SIDE, layer_maps, pooled

VECTOR = "pooled"  # the backbone's output: the mean over the last map
FEATURES = (*LAYERS, VECTOR)
BATCH = 32


def frozen_features(
    encoder: FrozenEncoder, paths: Sequence[Path], features: Sequence[str], threads: int
) -> dict[str, NDArray[np.float32]]:
    """Embed images, warped to 224 x 224 (specification 5.1).

    Args:
        encoder: a frozen backbone without a projector.
        paths: n image files.
        features: names out of ``FEATURES``: layers, pooled to their grids and flattened, or the pooled vector.
        threads: threads that decode.

    Returns:
        Feature -> (n, D) float32, in the order of the paths. D is 2048 for the vector of a ResNet-50, 8,192 or 9,216
        for its layers.

    Raises:
        ValueError: a feature is unknown, or an image cannot be read.
    """
    unknown = sorted(set(features) - set(FEATURES))
    if unknown:
        raise ValueError(f"unknown feature {unknown[0]!r}; choose from {', '.join(FEATURES)}")
    chunks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in features}
    with closing(views(paths, warped(SIDE), threads)) as crops:
        while batch := list(islice(crops, BATCH)):
            images = torch.from_numpy(np.stack(batch)).to(encoder.device)
            for name, values in _forward(encoder, images, features).items():
                chunks[name].append(values)
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


@torch.inference_mode()
def _forward(encoder: FrozenEncoder, images: torch.Tensor, features: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    layers = [name for name in features if name != VECTOR]
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=encoder.precision == torch.bfloat16):
        maps = layer_maps(encoder.backbone, colours(images), {*layers, *(["res5"] if VECTOR in features else [])})
    found = {name: pooled(name, maps[name].float()).flatten(1) for name in layers}
    if VECTOR in features:
        found[VECTOR] = maps["res5"].float().mean(dim=(2, 3))
    return {name: values.cpu().numpy() for name, values in found.items()}
