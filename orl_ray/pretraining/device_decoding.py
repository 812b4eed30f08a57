"""Batches whose JPEGs are decoded and cut on the device that trains, instead of on the host.

On a GPU, nvJPEG decodes all images of a batch in one call, and their crops have Pillow's bits (``device_crops``). Its
inverse cosine transform and its upsampling of colours are not libjpeg's: pixels differ a little from the host's, so
that this changes results. What is no ordinary JPEG, or has to be turned, is decoded on the host and sent as it is.

It has never run on a GPU: on the CPU, where the tests run it, torchvision decodes with libjpeg-turbo.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from orl_ray.embeddings.device_crops import crop_resize_all
from orl_ray.embeddings.on_their_way import to_device
from orl_ray.pretraining.augmentation import Parameters
from orl_ray.pretraining.cuts import Cut
from orl_ray.scenes.decode import decode_known, is_plain_jpeg


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The views of a share of a batch, still to be decoded and cut; otherwise as a ``ViewBatch``.

    Attributes:
        step: the step that they are for.
        terms: the loss terms.
        files: position in the training set -> (bytes,) uint8 of a JPEG, or (H, W, 3) uint8 of what is none.
        samples: for each of n samples, the two cuts of each loss term.
        parameters: the augmentation of each view.
        sample_weights: (n,) float32 factors by loss term.
    """

    step: int
    terms: tuple[str, ...]
    files: dict[int, Tensor]
    samples: list[dict[str, tuple[Cut, Cut]]]
    parameters: dict[str, tuple[Parameters, Parameters]]
    sample_weights: dict[str, Tensor]

    def pin_memory(self) -> "EncodedBatch":
        """Return the batch: nvJPEG reads from pageable memory."""
        return self

    def images_on(self, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """Decode and cut on a device.

        Returns:
            Two (n, 3, side, side) uint8 batches a loss term, channels last in memory.

        Raises:
            ValueError: a box leaves its image.
            RuntimeError: a JPEG does not decode on the device.
        """
        images = _decoded(self.files, device)

        def view(term: str, number: int) -> Tensor:
            return _cut_all(images, [sample[term][number] for sample in self.samples]).permute(0, 3, 1, 2)

        return {term: (view(term, 0), view(term, 1)) for term in self.terms}


def encoded(data: bytes, max_pixels: int) -> Tensor:
    """Return what a device decodes: the bytes of a plain JPEG, (bytes,) uint8, or else the pixels, (H, W, 3) uint8.

    Raises:
        BadImageError: the image does not decode, or its header is not readable.
    """
    plain = is_plain_jpeg(data, max_pixels)
    found: NDArray[np.uint8] = np.frombuffer(data, np.uint8).copy() if plain else decode_known(data, max_pixels)
    return torch.from_numpy(found)


def _decoded(files: dict[int, Tensor], device: torch.device) -> dict[int, Tensor]:
    """Decode all images of a batch to (H, W, 3) uint8 on a device."""
    images = {position: to_device(file.numpy(), device) for position, file in files.items() if file.ndim > 1}
    jpegs = {position: file for position, file in files.items() if file.ndim == 1}
    if jpegs:
        pixels = decode_jpeg(list(jpegs.values()), mode=ImageReadMode.RGB, device=device)
        images |= {position: found.permute(1, 2, 0) for position, found in zip(jpegs, pixels, strict=True)}
    return images


def _cut_all(images: dict[int, Tensor], cuts: list[Cut]) -> Tensor:
    """Cut n views of one side, (n, side, side, 3) uint8."""
    return torch.cat([crop_resize_all(images[cut.position], cut.box[None], cut.side) for cut in cuts])
