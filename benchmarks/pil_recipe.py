"""The published input recipe, one sample at a time on the host (specification 1.5, 3.1 to 3.3). Frozen: compared with.

Written from the specification after Jiahao000/ORL's configs and ``datasets/orl.py``: torchvision's transforms on
Pillow images, Pillow's Gaussian blur and solarisation, Python's and NumPy's random numbers. Nothing here is tuned, and
nothing of ``orl_ray`` is used but the training set that both sides read.
"""

import io
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import functional

from orl_ray.pretraining.training_set import TrainingSet

Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]


class GaussianBlur:
    """Pillow's blur, its radius drawn from U(0.1, 2)."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur an image."""
        return image.filter(ImageFilter.GaussianBlur(radius=np.random.uniform(0.1, 2.0)))  # noqa: NPY002 -- as published


class Solarization:
    """Inversion from 128 upwards."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Solarise an image."""
        return ImageOps.solarize(image, 128)


def pipeline(view: int, *, crop: int | None) -> Callable[[Image.Image], Pixels]:
    """Return the pipeline of view 1 or 2, with a random resized crop to ``crop`` pixels for whole images."""
    blur, solarise = ((1.0, 0.0), (0.1, 0.2))[view - 1]
    steps: list[Callable[[Any], Any]] = []
    if crop is not None:
        steps.append(transforms.RandomResizedCrop(crop, interpolation=transforms.InterpolationMode.BILINEAR))
    steps += [
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([GaussianBlur()], p=blur),
        transforms.RandomApply([Solarization()], p=solarise),
        np.array,
    ]
    composed: Callable[[Image.Image], Pixels] = transforms.Compose(steps)
    return composed


class PilRecipe:
    """Makes samples as the published data sets do.

    Args:
        training_set: the images, their RoIs and pairs.
        view_size: side of a whole-image view, pixels.
        patch_size: side of a region view, pixels; 0 makes image-level samples.
    """

    def __init__(self, training_set: TrainingSet, view_size: int, patch_size: int = 0) -> None:
        self._set, self._patch_size = training_set, patch_size
        self._views = [pipeline(view, crop=view_size) for view in (1, 2)]
        self._patches = [pipeline(view, crop=None) for view in (1, 2)]

    def sample(self, position: int) -> list[Pixels]:
        """Return the 2 views of a sample, or its 6 with patches, (side, side, 3) each."""
        image = self._open(position)
        views = [view(image) for view in self._views]
        if not self._patch_size:
            return views
        first = _box(random.choice(self._set.rois(position)))
        second = jittered(first, *image.size)
        rows = self._set.rows(position)
        row = rows[random.randrange(len(rows))]
        pair = random.randrange(len(row.query_boxes))
        neighbor = self._open(self._set.position(row.neighbor_id))
        cut = [(image, first), (image, second)]
        cut += [(image, _box(row.query_boxes[pair])), (neighbor, _box(row.neighbor_boxes[pair]))]
        for number, (source, (x, y, width, height)) in enumerate(cut):
            patch = functional.resized_crop(source, y, x, height, width, [self._patch_size, self._patch_size])
            views.append(self._patches[number % 2](patch))
        return views

    def _open(self, position: int) -> Image.Image:
        return Image.open(io.BytesIO(self._set.image_bytes(position))).convert("RGB")


def _box(values: NDArray[np.int32]) -> Box:
    x, y, width, height = (int(value) for value in values)
    return x, y, width, height


def jittered(box: Box, width: int, height: int) -> Box:
    """Move and reshape a box, at most 200 times, until it lies in the image with an IoU above 0.5."""
    x, y, w, h = box
    for _ in range(200):
        area = random.uniform(0.5, 2.0) * w * h
        aspect = math.exp(random.uniform(math.log(0.5), math.log(2.0)))
        new_w, new_h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        left = round(x + w / 2 + random.uniform(-0.5, 0.5) * w - new_w / 2)
        top = round(y + h / 2 + random.uniform(-0.5, 0.5) * h - new_h / 2)
        if left < 0 or top < 0 or left + new_w > width or top + new_h > height:
            continue
        across = min(x + w, left + new_w) - max(x, left)
        down = min(y + h, top + new_h) - max(y, top)
        if across > 0 and down > 0 and across * down > 0.5 * (w * h + new_w * new_h - across * down):
            return left, top, new_w, new_h
    return box
