"""The uint8 views of one training sample and of a batch, cut on the CPU (specification 3.1).

Every draw is keyed by (seed, stage, lap, role, view, operation) and the id of the *anchor* image: two views differ, a
neighbour's patch differs from anchor to anchor, and neither processes nor restarts change anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orl_ray import draws
from orl_ray.pretraining.augmentation import PIPELINES, Parameters, concatenate, draw_parameters
from orl_ray.pretraining.crops import jitter_boxes, random_resized_crops
from orl_ray.pretraining.objectives import GLOBAL, INTER, INTRA
from orl_ray.pretraining.sampling import LapSamples
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.scenes.decode import BadImageError, crop_resize, decode

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
    """

    training_set: TrainingSet
    seed: int
    stage: str
    terms: tuple[str, ...]
    view_size: int
    patch_size: int = 0
    augmentation: str = "byol"
    smallest_crop: float = 0.08

    def side(self, term: str) -> int:
        """Return the side of a term's views, pixels."""
        return self.view_size if term == GLOBAL else self.patch_size

    def crops(self, lap: int, position: int) -> Crops:
        """Decode a sample's image, and its neighbour's if one is wanted, and cut their views out.

        Args:
            lap: number of completed walks through all images.
            position: of the anchor image in the training set.

        Raises:
            ValueError: an image does not decode, a box does not lie in its image, or a RoI is wanted and there is none.
        """
        sample = _Sample(self, lap, position, _decode(self.training_set, position))
        cut = {GLOBAL: sample.global_crops, INTRA: sample.intra_crops, INTER: sample.inter_crops}
        return {term: cut[term]() for term in self.terms}

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


@dataclass(frozen=True, slots=True)
class _Sample:
    """One anchor image in one lap."""

    maker: ViewMaker
    lap: int
    position: int
    image: NDArray[np.uint8]

    def global_crops(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Cut two random resized crops of the whole image."""
        scale = (self.maker.smallest_crop, 1.0)
        first, second = (
            crop_resize(
                self.image,
                random_resized_crops(self._key(GLOBAL, view, "crop"), self._ids, *self._extent, scale)[0],
                self.maker.view_size,
            )
            for view in (1, 2)
        )
        return first, second

    def intra_crops(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Cut a RoI, drawn uniformly, and a jittered version of it."""
        box = self._roi(INTRA)
        jittered = jitter_boxes(self._key(INTRA, 2, "jitter"), self._ids, box[None], *self._extent)[0]
        return self._patch(self.image, box), self._patch(self.image, jittered)

    def inter_crops(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Cut a pair of boxes, drawn uniformly from those of a neighbour that is drawn uniformly.

        Without any neighbour, one RoI serves as both patches: it takes part in the batch statistics, so that all
        batches are full, and its loss has the factor zero.
        """
        rows = self.maker.training_set.rows(self.position)
        if not len(rows):
            patch = self._patch(self.image, self._roi(INTER))
            return patch, patch
        row = rows[self._choice(len(rows), INTER, "neighbor")]
        pair = self._choice(len(row.query_boxes), INTER, "pair")
        neighbor = _decode(self.maker.training_set, self.maker.training_set.position(row.neighbor_id))
        return self._patch(self.image, row.query_boxes[pair]), self._patch(neighbor, row.neighbor_boxes[pair])

    @property
    def _ids(self) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self.maker.training_set.image_ids[self.position : self.position + 1]
        return ids

    @property
    def _extent(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        height, width = self.image.shape[:2]
        return np.array([width]), np.array([height])

    def _key(self, *names: str | int) -> int:
        return draws.stream(self.maker.seed, self.maker.stage, self.lap, *names)

    def _choice(self, count: int, *names: str) -> int:
        return int(draws.integers(self._key(*names), self._ids, count)[0])

    def _roi(self, role: str) -> NDArray[np.int32]:
        rois = self.maker.training_set.rois(self.position)
        if not len(rois):
            raise ValueError(
                f"image {self._ids[0]} has no RoI: object-level training needs an object-level training set"
            )
        roi: NDArray[np.int32] = rois[self._choice(len(rois), role, "roi")]
        return roi

    def _patch(self, image: NDArray[np.uint8], box: NDArray[np.int32]) -> NDArray[np.uint8]:
        return crop_resize(image, box, self.maker.patch_size)


def _decode(training_set: TrainingSet, position: int) -> NDArray[np.uint8]:
    try:
        return decode(training_set.image_bytes(position), training_set.max_pixels)
    except BadImageError as error:
        image_id = training_set.image_ids[position]
        raise ValueError(f"image {image_id} of {training_set.folder} does not decode: {error}") from error
