"""Crops through a frozen network to unit float16 vectors, in batches of a fixed size.

The bits of a forward pass depend on the size of its batch, so the batch is always full: filled across images, and the
tail is padded. With one thread a worker the vectors are then a function of the weights and of the order of the crops
alone, whoever computes them.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.on_their_way import arrived, to_device
from orl_ray.encoders.normalisation import normalise


class Embedded(NamedTuple):
    """Vectors, and what they cost.

    Attributes:
        vectors: (n, features) of unit length, float16 unless asked for otherwise.
        forwards: rows that went through the network, without padding.
        padding: rows that filled the last batch up.
    """

    vectors: NDArray[Any]
    forwards: int
    padding: int


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
    vectors: NDArray[np.float16] = embed_blocks(
        encoder, (to_device(crop[None], encoder.device) for crop in crops), batch_size
    ).vectors
    return vectors


def embed_blocks(
    encoder: FrozenEncoder, blocks: Iterable[Tensor], batch_size: int, dtype: DTypeLike = np.float16
) -> Embedded:
    """Embed blocks of crops, such as all RoIs of an image, as if they came one by one.

    Args:
        encoder: the network.
        blocks: (k, S, S, 3) RGB uint8 on the network's device, k at least 0; no more are read than fill a batch.
        batch_size: crops a forward pass.
        dtype: of the vectors.

    Returns:
        The vectors in the order of the crops, and the counts.

    Raises:
        ValueError: a vector is zero or not finite: the network has collapsed or its weights are broken.
    """
    forwards = padding = 0

    def outputs() -> Iterator[Tensor]:
        nonlocal forwards, padding
        for batch, filled in _full_batches(blocks, batch_size):
            vectors = forward(encoder, batch)
            forwards, padding = forwards + filled, padding + len(batch) - filled
            yield vectors[:filled]

    chunks = [unit(vectors, dtype) for vectors in arrived(outputs())]
    vectors = np.concatenate([np.empty((0, encoder.features), dtype), *chunks])
    return Embedded(vectors, forwards, padding)


def forward(encoder: FrozenEncoder, crops: Tensor) -> Tensor:
    """Normalise (n, H, W, 3) uint8 crops and embed them; return (n, features) float32, all on the network's device."""
    with torch.inference_mode():
        vectors: Tensor = encoder(colours(crops))
        return vectors.float()


def colours(images: Tensor) -> Tensor:
    """Turn (n, H, W, 3) uint8 into the network's input: (n, 3, H, W) float32, normalised, channels last in memory."""
    planes = normalise(images.permute(0, 3, 1, 2).float() / 255)
    return planes.contiguous(memory_format=torch.channels_last)


def unit(vectors: NDArray[np.float32], dtype: DTypeLike = np.float16) -> NDArray[Any]:
    """Scale (n, D) vectors to unit length, and round them to ``dtype``.

    Raises:
        ValueError: a vector is zero or not finite.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError("the encoder gives zero or non-finite vectors: it has collapsed, or its weights are broken")
    scaled: NDArray[Any] = (vectors / lengths).astype(dtype)
    return scaled


def _full_batches(blocks: Iterable[Tensor], batch_size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (batch, how many of its rows are crops). All batches have one size; the memory is the same each time."""
    batch: Tensor | None = None
    filled = 0
    for block in blocks:
        if batch is None:
            batch = block.new_zeros((batch_size, *block.shape[1:]))
        start = 0
        while start < len(block):
            taken = min(batch_size - filled, len(block) - start)
            batch[filled : filled + taken] = block[start : start + taken]
            start, filled = start + taken, filled + taken
            if filled == batch_size:
                yield batch, filled
                filled = 0
    if batch is not None and filled:
        batch[filled:] = 0
        yield batch, filled
