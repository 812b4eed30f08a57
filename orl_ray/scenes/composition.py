"""One object: its parts posed, rasterised with antialiasing, textured, lit and laid over a picture with a shadow."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes import textures
from orl_ray.scenes.cursor import Cursor
from orl_ray.scenes.shapes import Paint, Part
from orl_ray.scenes.textures import Plane

_SUPERSAMPLING = 4
_SHIFT = 4  # OpenCV's fixed point: coordinates in sixteenths of a supersampled pixel
_EDGE = 0.014  # width of an outline, as a share of the object's size


@dataclass(frozen=True, slots=True)
class Sprite:
    """A painted object.

    Attributes:
        colour: (h, w, 3) float32, 0 to 255, already multiplied by alpha.
        alpha: (h, w) float32 coverage in 0 to 1.
    """

    colour: Plane
    alpha: Plane


def paint(c: Cursor, parts: list[Part], size: float, light: float) -> Sprite:
    """Pose and paint an object.

    Args:
        c: the scene's draws: pose, colours and texture come from it.
        parts: the outline, back to front.
        size: the longer side of the posed object, pixels.
        light: direction that the light comes from, radians; surfaces towards it are brighter.
    """
    coverage = _rasterise(_pose(c, parts), size)
    height, width = coverage.shape[:2]
    surfaces = np.empty((len(Paint), height, width, 3), np.float32)
    surfaces[Paint.BODY - 1] = textures.pattern(c, height, width)
    surfaces[Paint.SECOND - 1] = textures.any_colour(c)
    surfaces[Paint.DARK - 1] = textures.colour(c, (0, 1), (0, 0.7), (0.1, 0.35))
    surfaces[Paint.LIGHT - 1] = textures.colour(c, (0, 1), (0, 0.25), (0.8, 1))
    surfaces[Paint.EDGE - 1] = textures.colour(c, (0, 1), (0, 0.5), (0.1, 0.25))
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    shade = 1 + c.between(0.05, 0.3) * (x[None, :] * math.cos(light) + y[:, None] * math.sin(light))
    flat = np.einsum("hwp,phwc->hwc", coverage, surfaces.clip(0, 255))
    return Sprite(flat * shade[..., None], coverage.sum(axis=2))


def lay(
    picture: Plane, sprite: Sprite, left: int, top: int, light: float, shadow: tuple[float, float]
) -> NDArray[np.bool_]:
    """Lay a sprite over a picture, in place, with a soft cast shadow on what lies behind.

    Args:
        picture: (H, W, 3) float32, changed.
        sprite: the object.
        left: column of the sprite's left edge, may be negative.
        top: row of its top edge, may be negative.
        light: direction that the light comes from, radians.
        shadow: length of the shadow, pixels, and its strength, 0 to 1.

    Returns:
        (H, W) bool, the pixels that the object covers by at least half.
    """
    length, strength = shadow
    blur = max(0.6, length / 2)
    margin = int(np.ceil(length + 3 * blur))
    cast = cv2.GaussianBlur(np.pad(sprite.alpha, margin), (0, 0), blur)
    down, right = round(-length * math.sin(light)), round(-length * math.cos(light))
    into, out_of = _overlap(picture.shape[:2], cast.shape, left - margin + right, top - margin + down)
    picture[into] *= 1 - strength * cast[out_of][..., None]

    covered = np.zeros(picture.shape[:2], bool)
    into, out_of = _overlap(picture.shape[:2], sprite.alpha.shape, left, top)
    picture[into] *= 1 - sprite.alpha[out_of][..., None]
    picture[into] += sprite.colour[out_of]
    covered[into] = sprite.alpha[out_of] >= 0.5
    return covered


def _overlap(
    outer: tuple[int, ...], inner: tuple[int, ...], left: int, top: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of the outer and the inner array where the inner, placed at (left, top), meets the outer."""
    spans = []
    for start, small, large in ((top, inner[0], outer[0]), (left, inner[1], outer[1])):
        low, high = min(max(start, 0), large), max(min(start + small, large), 0)
        spans.append((slice(low, max(low, high)), slice(low - start, max(low, high) - start)))
    return (spans[0][0], spans[1][0]), (spans[0][1], spans[1][1])


def _pose(c: Cursor, parts: list[Part]) -> list[Part]:
    """Mirror, stretch, shear and rotate a whole object; strokes keep their width."""
    angle, shear, stretch = (
        np.radians(c.between(-1, 1) * c.between(2, 30)),
        c.between(-0.22, 0.22),
        c.between(0.82, 1.22),
    )
    mirror = -1.0 if c.chance(0.5) else 1.0
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotate @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([mirror * stretch, 1.0])
    return [Part(part.points @ matrix.T, part.paint, part.width, part.closed) for part in parts]


def _rasterise(parts: list[Part], size: float) -> Plane:
    """Draw parts at several times the size and average: (h, w, paints) float32 shares that sum to alpha."""
    low = np.min([part.points.min(axis=0) - part.width / 2 for part in parts], axis=0)
    high = np.max([part.points.max(axis=0) + part.width / 2 for part in parts], axis=0)
    scale = size / (high - low).max() * _SUPERSAMPLING
    width, height = (int(length) for length in np.ceil((high - low) * scale / _SUPERSAMPLING) + 2)
    canvas = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    edge = max(1, round(size * _EDGE * _SUPERSAMPLING))
    for part in parts:
        points = np.round(((part.points - low) * scale + _SUPERSAMPLING) * (1 << _SHIFT)).astype(np.int32)
        if part.width:
            thick = max(2, round(part.width * scale))
            cv2.polylines(canvas, [points], part.closed, int(part.paint), thick, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(canvas, [points], int(part.paint), cv2.LINE_8, _SHIFT)
            cv2.polylines(canvas, [points], True, int(Paint.EDGE), edge, cv2.LINE_8, _SHIFT)
    layers = [
        cv2.resize((canvas == p).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) for p in Paint
    ]
    return np.stack(layers, axis=2)
