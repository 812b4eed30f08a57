"""The uint8 views of one training sample and of a batch, cut on the CPU (specification 3.1)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orl_ray import draws
from orl_ray.pretraining.augmentation import PIPELINES, Parameters, concatenate, draw_parameters
from orl_ray.pretraining.cuts import Cut, SampleCuts
from orl_ray.pretraining.cutting import cut_views
from orl_ray.pretraining.device_decoding import encoded
from orl_ray.pretraining.objectives import GLOBAL
from orl_ray.pretraining.sampling import LapSamples
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.scenes.decode import BadImageError, decode_known, size_of

_T = TypeVar("_T")

Crops = dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Two (side, side, 3) uint8 crops a loss term."""


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """The views of one process' share of a batch of n samples.

    Attributes:
        step: the step that they are for.
        images: two (n, 3, side, side) uint8 batches a loss term, channels last in memory.
        parameters: the augmentation of each of them.
        sample_weights: (n,) float32 factors by loss term; terms that are not listed weigh all samples the same.
    """

    step: int
    images: dict[str, tuple[Tensor, Tensor]]
    parameters: dict[str, tuple[Parameters, Parameters]]
    sample_weights: dict[str, Tensor]

    def images_on(self, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the images on a device."""
        return {
            term: (first.to(device, non_blocking=True), second.to(device, non_blocking=True))
            for term, (first, second) in self.images.items()
        }

    def pin_memory(self) -> "ViewBatch":
        """Return the batch with its images in pinned memory; torch's loader asks for it."""
        images = {term: (first.pin_memory(), second.pin_memory()) for term, (first, second) in self.images.items()}
        return replace(self, images=images)


@dataclass(frozen=True, slots=True)
class ViewMaker:
    """Cuts the views of samples.

    Args:
        training_set: the images, their RoIs and pairs.
        seed: the run's seed.
        stage: name of the stage.
        terms: the loss terms whose views are wanted.
        view_size: side of a whole-image view, pixels.
        patch_size: side of a region view, pixels; unused where no region term is wanted.
        augmentation: name of the pair of pipelines, a key of :data:`~orl_ray.pretraining.augmentation.PIPELINES`.
        smallest_crop: least share of an image's area that a whole-image view shows.
        decode_margin: as for :func:`~orl_ray.pretraining.cutting.cut_views`; 0 decodes images at their full size.
        on_device: whether the device that trains decodes and cuts (``device_decoding``), so that only files are read.
    """

    training_set: TrainingSet
    seed: int
    stage: str
    terms: tuple[str, ...]
    view_size: int
    patch_size: int = 0
    augmentation: str = "byol"
    smallest_crop: float = 0.08
    decode_margin: float = 0.0
    on_device: bool = False

    def side(self, term: str) -> int:
        """Return the side of a term's views, pixels."""
        return self.view_size if term == GLOBAL else self.patch_size

    def cuts(self, lap: int, position: int) -> dict[str, tuple[Cut, Cut]]:
        """Draw what the two views of each term are cut from; the image is looked at, but not decoded.

        Args:
            lap: number of completed walks through all images.
            position: of the anchor image in the training set.

        Raises:
            ValueError: the image has no readable header, or a RoI is wanted and there is none.
        """
        sides = {term: self.side(term) for term in self.terms}
        extent = self._read(position, size_of)
        sample = SampleCuts(self.training_set, self.seed, self.stage, lap, position, extent, sides, self.smallest_crop)
        return {term: sample.of(term) for term in self.terms}

    def crops(self, lap: int, position: int) -> Crops:
        """Decode a sample's image, and its neighbour's if one is wanted, and cut their views out.

        Args:
            lap: number of completed walks through all images.
            position: of the anchor image in the training set.

        Raises:
            ValueError: an image does not decode, a box does not lie in its image, or a RoI is wanted and there is none.
        """
        wanted = self.cuts(lap, position)
        cuts = [cut for pair in wanted.values() for cut in pair]
        views: dict[int, Iterator[NDArray[np.uint8]]] = {}
        for image in dict.fromkeys(cut.position for cut in cuts):
            of_image = [cut for cut in cuts if cut.position == image]
            views[image] = iter(self._read(image, partial(self._cut, image, of_image), alone=image != position))
        return {term: (next(views[one.position]), next(views[two.position])) for term, (one, two) in wanted.items()}

    def encoded(self, position: int, *, alone: bool) -> Tensor:
        """Read an image for a device that decodes it; as :func:`~orl_ray.pretraining.device_decoding.encoded`.

        Raises:
            ValueError: the image has no readable header, or is no plain JPEG and does not decode.
        """
        return self._read(position, encoded, alone=alone)

    def _cut(self, position: int, cuts: Sequence[Cut], data: bytes, max_pixels: int) -> list[NDArray[np.uint8]]:
        return cut_views(data, cuts, max_pixels, self.decode_margin, partial(self._decode, position))

    def _decode(self, position: int, data: bytes, max_pixels: int, reduction: int) -> NDArray[np.uint8]:
        """Decode an image, or take it from among those that were."""
        if (kept := self.training_set.decoded) is None:
            return decode_known(data, max_pixels, reduction)
        name = f"{position}-{reduction}"
        image = kept.get(name)
        if image is None:
            image = decode_known(data, max_pixels, reduction)
            kept.keep(name, image)
        return image

    def _read(self, position: int, read: Callable[[bytes, int], _T], *, alone: bool = False) -> _T:
        """Read something from the bytes of an image, and name the image where they are bad."""
        try:
            return read(self.training_set.image_bytes(position, alone=alone), self.training_set.max_pixels)
        except BadImageError as error:
            image_id = self.training_set.image_ids[position]
            raise ValueError(f"image {image_id} of {self.training_set.folder} does not decode: {error}") from error

    def parameters(self, samples: Sequence[LapSamples]) -> dict[str, tuple[Parameters, Parameters]]:
        """Draw the augmentation of each view of a batch."""

        def view(term: str, number: int) -> Parameters:
            keys = [draws.stream(self.seed, self.stage, part.lap, term, number, "augmentation") for part in samples]
            ids = [self.training_set.image_ids[part.positions] for part in samples]
            pipeline = PIPELINES[self.augmentation][number - 1]
            return concatenate([draw_parameters(key, these, pipeline) for key, these in zip(keys, ids, strict=True)])

        return {term: (view(term, 1), view(term, 2)) for term in self.terms}

    def inter_weights(self, local: Sequence[LapSamples], whole: Sequence[LapSamples]) -> Tensor:
        """Return factors that turn a mean over the whole batch into one over those samples that have a neighbour.

        Args:
            local: this process' samples, n.
            whole: the samples of the whole batch.

        Returns:
            (n,) float32; zero where the image has no row.
        """
        has_row, anywhere = (
            np.concatenate([self.training_set.row_counts(part.positions) > 0 for part in samples])
            for samples in (local, whole)
        )
        return torch.from_numpy((has_row * (len(anywhere) / max(1, anywhere.sum()))).astype(np.float32))
