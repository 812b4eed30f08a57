"""What a classifier is trained on: crops, flips and changes of colour, each keyed by the image and the epoch."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orl_ray import draws
from orl_ray.encoders.normalisation import STD
from orl_ray.evaluation.image_views import read
from orl_ray.evaluation.recipes import Recipe
from orl_ray.evaluation.single_label_layouts import LabelledImages
from orl_ray.pretraining.augmentation import Parameters, augment, concatenate
from orl_ray.pretraining.crops import random_resized_crops
from orl_ray.pretraining.sampling import LapSamples, SampleStream, Share
from orl_ray.scenes.decode import crop_resize

STAGE = "classifier"
_AHEAD = 2
# Principal axes of ImageNet's colours, RGB in [0, 1] (Krizhevsky et al., 2012, with the numbers in common use).
_AXIS_SPREAD = (0.2175, 0.0188, 0.0045)
_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """One process' share of a step.

    Attributes:
        images: (n, 3, side, side) uint8 RGB.
        parameters: what is done to their colours, and whether they are flipped.
        lighting: (n, 3) float32, what is added to each colour.
        labels: (n,) int64.
    """

    images: Tensor
    parameters: Parameters
    lighting: NDArray[np.float32]
    labels: Tensor


def training_batches(
    images: LabelledImages, recipe: Recipe, stream: SampleStream, shares: Iterable[Share], threads: int
) -> Generator[TrainingBatch]:
    """Make some batches, or parts of batches, in order, two ahead.

    Args:
        images: what is trained on.
        recipe: says what views look like.
        stream: says which images a step takes.
        shares: what is wanted.
        threads: threads that decode and cut.

    Yields:
        One batch a share.

    Raises:
        ValueError: an image cannot be read.
    """
    ids = images.ids()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="training views")
    pending: deque[tuple[list[LapSamples], list[Future[NDArray[np.uint8]]]]] = deque()

    def finished() -> TrainingBatch:
        samples, futures = pending.popleft()
        crops = torch.from_numpy(np.stack([future.result() for future in futures])).permute(0, 3, 1, 2)
        drawn = [colour_draws(stream.seed, part.lap, ids[part.positions], recipe) for part in samples]
        labels = np.concatenate([images.labels[part.positions] for part in samples])
        parameters, lighting = zip(*drawn, strict=True)
        return TrainingBatch(crops, concatenate(parameters), np.concatenate(lighting), torch.from_numpy(labels))

    def crop(lap: int, position: int) -> NDArray[np.uint8]:
        image = read(images.root / images.paths[position])
        return training_crop(image, stream.seed, lap, ids[position : position + 1], recipe.side)

    try:
        for share in shares:
            samples = stream.share(share)
            places = [(part.lap, int(position)) for part in samples for position in part.positions]
            pending.append((samples, [executor.submit(crop, *place) for place in places]))
            if len(pending) > _AHEAD:
                yield finished()
        while pending:
            yield finished()
    finally:
        executor.shutdown(cancel_futures=True)


def training_crop(
    image: NDArray[np.uint8], seed: int, lap: int, image_id: NDArray[np.int64], side: int
) -> NDArray[np.uint8]:
    """Cut the random resized crop of an epoch.

    Args:
        image: (H, W, 3) uint8.
        seed: the run's seed.
        lap: the epoch.
        image_id: (1,) int64.
        side: side of the result.

    Returns:
        (side, side, 3) uint8.
    """
    height, width = image.shape[:2]
    key = draws.stream(seed, "evaluation", STAGE, lap, "crop")
    return crop_resize(image, random_resized_crops(key, image_id, np.array([width]), np.array([height]))[0], side)


def colour_draws(seed: int, lap: int, ids: NDArray[np.int64], recipe: Recipe) -> tuple[Parameters, NDArray[np.float32]]:
    """Draw flips and changes of colour.

    Args:
        seed: the run's seed.
        lap: the epoch.
        ids: (n,) int64 image ids.
        recipe: says how strong they are.

    Returns:
        Parameters of n images, and (n, 3) float32 that is added to their colours.
    """

    def uniform(name: str, count: int) -> NDArray[np.float64]:
        return draws.uniform(draws.stream(seed, "evaluation", STAGE, lap, name), ids, count)

    nothing = np.zeros(len(ids), dtype=np.bool_)
    factors = np.zeros((len(ids), 4), dtype=np.float32)  # brightness, contrast, saturation; the hue is not turned
    factors[:, :3] = 1 - recipe.jitter + 2 * recipe.jitter * uniform("factors", 3)
    order = np.concatenate([uniform("order", 3).argsort(axis=1), np.full((len(ids), 1), 3)], axis=1)
    parameters = Parameters(
        flip=np.asarray(uniform("flip", 1)[:, 0] < 0.5),
        jitter=np.full(len(ids), recipe.jitter > 0),
        order=order,
        factors=factors,
        grayscale=nothing,
        blur=nothing,
        sigma=np.ones(len(ids), dtype=np.float32),
        solarise=nothing,
    )
    return parameters, _lighting(uniform("lighting", 6), recipe.lighting)


def training_input(batch: TrainingBatch, device: torch.device) -> Tensor:
    """Move a batch to the device and change its colours there: (n, 3, side, side) float32, normalised."""
    changed = augment(batch.images.to(device), batch.parameters)
    added = torch.from_numpy(batch.lighting).to(device) / changed.new_tensor(STD)
    return (changed + added[:, :, None, None]).contiguous(memory_format=torch.channels_last)


def _lighting(drawn: NDArray[np.float64], std: float) -> NDArray[np.float32]:
    """Turn (n, 6) uniform numbers into (n, 3) normal ones (Box and Muller, 1958) along the axes of the colours."""
    normal = np.sqrt(-2 * np.log1p(-drawn[:, :3])) * np.cos(2 * np.pi * drawn[:, 3:])
    noise: NDArray[np.float64] = (std * normal * np.array(_AXIS_SPREAD)) @ np.array(_AXES).T
    return noise.astype(np.float32)
