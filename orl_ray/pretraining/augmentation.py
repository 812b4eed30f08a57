"""Photometric augmentation: parameters drawn on the host by keyed draws, applied to a whole batch on the device.

The operations and their probabilities are those of specification 1.5 (global views), 3.2 (patches, the same) and 1.6.
Colours are floats in [0, 1] throughout; the reference rounds to uint8 after each operation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orl_ray import draws
from orl_ray.encoders.normalisation import normalise

_SIGMA = (0.1, 2.0)
_BLUR_RADIUS = 6  # three times the largest sigma
SOLARISE_THRESHOLD = 128 / 255
_GRAY = (0.2989, 0.587, 0.114)  # torchvision's, ITU-R 601


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Probability of each operation, in the order of application, and how far colours go.

    Attributes:
        flip, jitter, grayscale, blur, solarise: probabilities.
        brightness, contrast, saturation: factors are drawn from 1 - this to 1 + this.
        hue: shifts are drawn from - this to + this, turns of the colour circle.
    """

    flip: float
    jitter: float
    grayscale: float
    blur: float
    solarise: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


def _like_both(**operations: float) -> tuple[Pipeline, Pipeline]:
    pipeline = Pipeline(flip=0.5, jitter=0.8, grayscale=0.2, blur=0.5, solarise=0.0, **operations)
    return pipeline, pipeline


_BYOL = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
PIPELINES = {
    "byol": (
        Pipeline(flip=0.5, jitter=0.8, grayscale=0.2, blur=1.0, solarise=0.0, **_BYOL),
        Pipeline(flip=0.5, jitter=0.8, grayscale=0.2, blur=0.1, solarise=0.2, **_BYOL),
    ),
    "moco": _like_both(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    "simclr": _like_both(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2),
}
"""The pipelines of view 1 and view 2 by the names of the setting ``augmentation``."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is done to each of n images.

    Attributes:
        flip, jitter, grayscale, blur, solarise: (n,) bool, whether the operation applies.
        order: (n, 4) int64, the colour operation in each place: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        factors: (n, 4) float32, of brightness, contrast and saturation, and the shift of the hue in turns.
        sigma: (n,) float32, of the Gaussian blur, pixels.
    """

    flip: NDArray[np.bool_]
    jitter: NDArray[np.bool_]
    order: NDArray[np.int64]
    factors: NDArray[np.float32]
    grayscale: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    sigma: NDArray[np.float32]
    solarise: NDArray[np.bool_]


def draw_parameters(key: int, ids: NDArray[np.int64], pipeline: Pipeline) -> Parameters:
    """Draw what is done to each image.

    Args:
        key: key of the stream of draws of one view; each operation draws from a stream of its own below it.
        ids: (n,) int64, the image ids that key the draws.
        pipeline: the probabilities.

    Returns:
        Parameters of n images.
    """

    def applies(name: str, probability: float) -> NDArray[np.bool_]:
        return np.asarray(draws.uniform(draws.stream(key, name), ids, 1)[:, 0] < probability)

    def between(name: str, low: Sequence[float], high: Sequence[float]) -> NDArray[np.float32]:
        lows, highs = np.asarray(low), np.asarray(high)
        drawn = draws.uniform(draws.stream(key, name), ids, len(lows))
        scaled: NDArray[np.float64] = lows + (highs - lows) * drawn
        return scaled.astype(np.float32)

    spans, hue = (pipeline.brightness, pipeline.contrast, pipeline.saturation), pipeline.hue
    return Parameters(
        flip=applies("flip", pipeline.flip),
        jitter=applies("jitter", pipeline.jitter),
        order=draws.uniform(draws.stream(key, "order"), ids, 4).argsort(axis=1),
        factors=between("factors", [*(1 - span for span in spans), -hue], [*(1 + span for span in spans), hue]),
        grayscale=applies("grayscale", pipeline.grayscale),
        blur=applies("blur", pipeline.blur),
        sigma=between("sigma", _SIGMA[:1], _SIGMA[1:])[:, 0],
        solarise=applies("solarise", pipeline.solarise),
    )


def concatenate(parts: Sequence[Parameters]) -> Parameters:
    """Join the parameters of several groups of images."""
    return Parameters(
        **{entry.name: np.concatenate([getattr(part, entry.name) for part in parts]) for entry in fields(Parameters)}
    )


def augment(images: Tensor, parameters: Parameters) -> Tensor:
    """Flip, jitter, turn gray, blur, solarise and normalise a batch, each image by its own parameters.

    Args:
        images: (n, 3, side, side) uint8 RGB, on any device.
        parameters: of these n images.

    Returns:
        (n, 3, side, side) float32 on the same device, normalised by ImageNet's mean and standard deviation.
    """
    if images.device.type == "cpu":
        from orl_ray.pretraining.host_augmentation import augment_on_host  # imports numba

        return augment_on_host(images, parameters)
    return augment_on_device(images, parameters)


def augment_on_device(images: Tensor, parameters: Parameters) -> Tensor:
    """Do what :func:`augment` says by operations on the whole batch, which is what a GPU is good at."""
    colours = images.to(torch.float32, memory_format=torch.contiguous_format) / 255
    colours = _apply(colours, parameters.flip, lambda chosen, _: chosen.flip(-1))
    colours = _colour_jitter(colours, parameters)
    colours = _apply(colours, parameters.grayscale, lambda chosen, _: _gray(chosen).expand_as(chosen))
    colours = _apply(colours, parameters.blur, gaussian_blur, parameters.sigma)
    colours = _apply(colours, parameters.solarise, lambda chosen, _: solarise(chosen))
    return normalise(colours)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend (n, 3, h, w) images in [0, 1] with black; factors (n,), 1 changes nothing."""
    return _blend(images, torch.zeros_like(images), factors)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend (n, 3, h, w) images in [0, 1] with their mean gray; factors (n,), 1 changes nothing."""
    return _blend(images, _gray(images).mean(dim=(1, 2, 3), keepdim=True), factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend (n, 3, h, w) images in [0, 1] with their gray versions; factors (n,), 1 changes nothing."""
    return _blend(images, _gray(images), factors)


def adjust_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue of (n, 3, h, w) images in [0, 1]; shifts (n,), in turns of the colour circle, 0 changes nothing."""
    value, low = images.amax(dim=1), images.amin(dim=1)
    chroma = value - low
    red, green, blue = images.unbind(dim=1)
    divisor = torch.where(chroma == 0, 1, chroma)
    sector = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sector = torch.where(value == red, (green - blue) / divisor, sector)
    turned = sector + 6 * shifts[:, None, None]
    # Smith (1978) in closed form: a channel is value - chroma * clip(min(k, 4 - k), 0, 1), k counted from its own hue.
    distances = torch.stack([(turned + offset) % 6 for offset in (5, 3, 1)], dim=1)
    falls = torch.minimum(distances, 4 - distances).clamp(0, 1)
    return value[:, None] - chroma[:, None] * falls


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur images, each by its own sigma; borders are reflected.

    The kernel reaches 6 pixels to each side, three times the largest published sigma, or as far as a smaller image
    goes. It samples the Gaussian, as torchvision's does; below half a pixel Pillow's, made of boxes, blurs a little
    more.

    Args:
        images: (n, channels, side, side) float.
        sigmas: (n,) float, pixels, above 0.

    Returns:
        The same shape.
    """
    side = images.shape[-1]
    taps = blur_taps(sigmas, side)
    radius = taps.shape[1] // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    places = torch.arange(side, device=images.device)
    sources = (places + offsets[:, None]).abs()
    sources = (side - 1) - ((side - 1) - sources).abs()
    selections = torch.nn.functional.one_hot(sources, side).to(images.dtype)  # (taps, place, source)
    matrices = (taps @ selections.flatten(1)).view(-1, 1, side, side)
    return matrices @ images @ matrices.mT


def blur_taps(sigmas: Tensor, side: int) -> Tensor:
    """Return the (n, 2 r + 1) weights of the blurs of images of a side, in a line, r as far as they reach."""
    radius = min(_BLUR_RADIUS, side - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigmas.device)
    taps = torch.exp(-0.5 * (offsets / sigmas[:, None]).square())
    return taps / taps.sum(dim=1, keepdim=True)


def solarise(images: Tensor) -> Tensor:
    """Invert the colours of images in [0, 1] from the published threshold, 128 of 255, upwards."""
    return torch.where(images >= SOLARISE_THRESHOLD, 1 - images, images)


_COLOUR_OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def _colour_jitter(images: Tensor, parameters: Parameters) -> Tensor:
    for place in range(len(_COLOUR_OPERATIONS)):
        for number, operation in enumerate(_COLOUR_OPERATIONS):
            chosen = parameters.jitter & (parameters.order[:, place] == number)
            images = _apply(images, chosen, operation, parameters.factors[:, number])
    return images


def _apply(
    images: Tensor,
    chosen: NDArray[np.bool_],
    operation: Callable[[Tensor, Tensor], Tensor],
    values: NDArray[np.float32] | None = None,
) -> Tensor:
    """Apply an operation to the chosen images, in place; chosen on the host, so that no device waits for it."""
    indices = np.flatnonzero(chosen)
    if not indices.size:
        return images
    picked = np.zeros(indices.size, np.float32) if values is None else values[indices]
    on_device = torch.from_numpy(indices).to(images.device, non_blocking=True)
    factors = torch.from_numpy(picked).to(images.device, non_blocking=True)
    images[on_device] = operation(images[on_device], factors)
    return images


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    ratio = factors[:, None, None, None]
    return (ratio * images + (1 - ratio) * others).clamp(0, 1)


def _gray(images: Tensor) -> Tensor:
    return (images * _channels(images, _GRAY)).sum(dim=1, keepdim=True)


def _channels(images: Tensor, values: tuple[float, float, float]) -> Tensor:
    return images.new_tensor(values).view(1, 3, 1, 1)
