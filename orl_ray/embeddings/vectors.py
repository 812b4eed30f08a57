"""Crops through a frozen network to unit float16 vectors, in batches of a fixed size.

The bits of a forward pass depend on the size of its batch, so the batch is always full: the tail is padded. With one
thread a worker the vectors are then a function of the weights and of the order of the crops alone, whoever computes
them.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.encoders.normalisation import normalise


def embed(encoder: FrozenEncoder, crops: Iterable[NDArray[np.uint8]], batch_size: int) -> NDArray[np.float16]:
    """Embed crops with a frozen network.

    Args:
        encoder: the network.
        crops: (S, S, 3) RGB uint8, any number of them, read a batch at a time.
        batch_size: crops a forward pass.

    Returns:
        (n, encoder.features) float16 of unit length, in the order of the crops.

    Raises:
        ValueError: a vector is zero or not finite: the network has collapsed or its weights are broken.
    """
    chunks = [_unit(_forward(encoder, batch, batch_size)) for batch in _batches(crops, batch_size)]
    return np.concatenate([np.empty((0, encoder.features), np.float16), *chunks])


def _forward(encoder: FrozenEncoder, batch: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    padded = np.zeros((batch_size, *batch.shape[1:]), np.uint8)
    padded[: len(batch)] = batch
    with torch.inference_mode():
        images = normalise(torch.from_numpy(padded).to(encoder.device).permute(0, 3, 1, 2).float() / 255)
        vectors = encoder(images.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
    return np.asarray(vectors[: len(batch)], np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError("the encoder gives zero or non-finite vectors: it has collapsed, or its weights are broken")
    unit: NDArray[np.float16] = (vectors / lengths).astype(np.float16)
    return unit


def _batches(crops: Iterable[NDArray[np.uint8]], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    batch: list[NDArray[np.uint8]] = []
    for crop in crops:
        batch.append(crop)
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
