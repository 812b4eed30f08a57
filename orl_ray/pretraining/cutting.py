"""Cutting views out of images: decoded no larger than they need be, resized by torch's vectorised kernel."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from orl_ray.pretraining.cuts import Cut
from orl_ray.scenes.decode import REDUCTIONS, decode_known, size_of

Decode = Callable[[bytes, int, int], NDArray[np.uint8]]
"""What ``decode_known`` does, or stands for it."""


def cut_views(
    data: bytes, cuts: Sequence[Cut], max_pixels: int, margin: float = 0.0, decode: Decode = decode_known
) -> list[NDArray[np.uint8]]:
    """Decode an image and cut views out of it.

    Args:
        data: the bytes of the image's file, which ``decode`` accepted before.
        cuts: what to cut; their boxes lie in this image.
        max_pixels: as for ``decode``.
        margin: if above 0, a JPEG is decoded at a half, a quarter or an eighth of its size where each crop then still
            has so many times as many pixels as its view along either side. Boxes are rounded to the smaller image's
            pixels, and lie up to one beside them where an orientation turns an image that does not divide.
        decode: decodes it.

    Returns:
        One (side, side, 3) uint8 view a cut.

    Raises:
        BadImageError: the image does not decode.
        ValueError: a box is empty or leaves the image.
    """
    reduction = reduction_for(cuts, margin)
    image = decode(data, max_pixels, reduction)
    boxes = [cut.box for cut in cuts]
    if reduction > 1:
        width, height = size_of(data, max_pixels)
        for box in boxes:
            _check(box, width, height)
        divisor = reduction if image.shape[1] < width else 1  # some kinds of images keep their size
        boxes = [_reduced(box, divisor, image.shape) for box in boxes]
    return [crop_resize(image, box, cut.side) for box, cut in zip(boxes, cuts, strict=True)]


def reduction_for(cuts: Sequence[Cut], margin: float) -> int:
    """Return by what the sides of an image are divided while it decodes: 1 where a margin of 0 asks for all of it."""
    if margin <= 0:
        return 1
    smallest = min(int(min(cut.box[2:])) / cut.side for cut in cuts)
    return max((divisor for divisor in REDUCTIONS if divisor * margin <= smallest), default=1)


def _reduced(box: NDArray[np.int32], reduction: int, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return a box in the pixels of an image whose sides were divided, at least one pixel wide and high."""
    limits = np.array(shape[1::-1])
    starts = np.minimum((box[:2] + reduction // 2) // reduction, limits - 1)
    ends = np.clip((box[:2] + box[2:] + reduction // 2) // reduction, starts + 1, limits)
    return np.concatenate([starts, ends - starts]).astype(np.int32)


def crop_resize(image: NDArray[np.uint8], box: NDArray[np.int32], side: int) -> NDArray[np.uint8]:
    """Cut a box out and resize it straight to a square, antialiased bilinear; the aspect ratio is not kept.

    It stands for ``scenes.decode.crop_resize`` in training, in a third of Pillow's time: weights of 15 bits instead of
    Pillow's 22 put a few of a hundred values one level beside Pillow's.

    Args:
        image: (H, W, 3) uint8.
        box: (4,) xywh pixels, top-left origin, inside the image.
        side: side of the result, pixels.

    Returns:
        (side, side, 3) uint8. Pixels outside the box have no influence.

    Raises:
        ValueError: the box is empty or leaves the image.
    """
    x, y, width, height = _check(box, image.shape[1], image.shape[0])
    pixels = torch.from_numpy(image)[y : y + height, x : x + width].permute(2, 0, 1)[None]
    resized = interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    view: NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return view


def _check(box: NDArray[np.int32], width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box as numbers, if it lies in an image of a size."""
    x, y, w, h = (int(value) for value in box)
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise ValueError(f"box {(x, y, w, h)} (xywh, pixels) does not lie inside an image of {width}x{height} pixels")
    return x, y, w, h
