"""Colours, object patterns and backgrounds of the generated scenes. All are (H, W, 3) float32 in 0 to 255."""

import colorsys
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.cursor import Cursor

Plane = NDArray[np.float32]


def colour(c: Cursor, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]) -> Plane:
    """Draw an RGB colour, (3,) float32 in 0 to 255, from ranges of hue, saturation and value in 0 to 1."""
    return (
        np.array(colorsys.hsv_to_rgb(c.between(*hue) % 1, c.between(*saturation), c.between(*value)), np.float32) * 255
    )


def any_colour(c: Cursor) -> Plane:
    """Draw a colour of any hue, from pale to vivid, neither black nor white."""
    return colour(c, (0, 1), (0.2, 0.95), (0.35, 1))


def noise(c: Cursor, height: int, width: int, cell_height: float, cell_width: float) -> Plane:
    """Draw smooth noise in [-1, 1] whose blobs are about one cell large, pixels; (H, W) float32."""
    rows, columns = max(2, round(height / cell_height)), max(2, round(width / cell_width))
    smooth: Plane = cv2.resize(c.field(rows, columns) * 2 - 1, (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth


def pattern(c: Cursor, height: int, width: int) -> Plane:
    """Draw the surface of an object: one of six kinds in two random colours, at a random angle and scale."""
    kind, first, second = c.pick(6), any_colour(c), any_colour(c)
    angle, period = c.between(0, math.pi), c.between(0.12, 0.3) * max(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = (x * math.cos(angle) + y * math.sin(angle)) / period + c.unit()
    v = (y * math.cos(angle) - x * math.sin(angle)) / period + c.unit()
    if kind == 0:  # plain
        share = np.zeros_like(x)
    elif kind == 1:  # stripes
        share = (u % 1 < c.between(0.3, 0.6)).astype(np.float32)
    elif kind == 2:  # checks
        share = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    elif kind == 3:  # spots
        share = (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < c.between(0.22, 0.36)).astype(np.float32)
    elif kind == 4:  # blotches
        share = (noise(c, height, width, period * 0.5, period * 0.5) > 0).astype(np.float32)
    else:  # a soft blend along the object
        share = np.clip(u * period / max(height, width), 0, 1)
    return _blend(first, second, share) + noise(c, height, width, 2, 2)[..., None] * c.between(2, 14)


def background(c: Cursor, kind: str, height: int, width: int, unit: float) -> Plane:
    """Draw a background.

    Args:
        c: the scene's draws.
        kind: one of ``BACKGROUNDS``.
        height: pixels.
        width: pixels.
        unit: length that bricks, planks, waves and blades scale with, pixels: the scene's longer side.
    """
    return _KINDS[kind](c, height, width, unit)


def _blend(first: Plane, second: Plane, share: Plane) -> Plane:
    return first + (second - first) * share[..., None]


def _lit(surface: Plane, brightness: Plane) -> Plane:
    """Multiply a colour or a picture by a brightness a pixel."""
    lit: Plane = surface * brightness[..., None]
    return lit


def _grass(c: Cursor, height: int, width: int, unit: float) -> Plane:
    base = colour(c, (0.18, 0.38), (0.3, 0.8), (0.35, 0.7))
    blades = noise(c, height, width, unit / 16, unit / 90) * 0.22
    tips = noise(c, height, width, unit / 60, unit / 100) * 0.16
    return _lit(base, 1 + blades + tips + noise(c, height, width, unit / 5, unit / 5) * 0.12)


def _sand(c: Cursor, height: int, width: int, unit: float) -> Plane:
    base = colour(c, (0.06, 0.14), (0.15, 0.5), (0.65, 0.95))
    ripples = noise(c, height, width, unit / 30, unit / 5) * 0.1 + noise(c, height, width, 1.3, 1.3) * 0.08
    return _lit(base, 1 + ripples + noise(c, height, width, unit / 4, unit / 4) * 0.08)


def _water(c: Cursor, height: int, width: int, unit: float) -> Plane:
    base = colour(c, (0.45, 0.66), (0.35, 0.85), (0.4, 0.9))
    waves = noise(c, height, width, unit / 40, unit / 8) * 0.22 + noise(c, height, width, unit / 90, unit / 22) * 0.15
    return _lit(base, 1 + waves) + _lit(np.full(3, 300, np.float32), np.clip(waves - 0.2, 0, 1))


def _sky(c: Cursor, height: int, width: int, unit: float) -> Plane:
    top, low = colour(c, (0.5, 0.7), (0.25, 0.8), (0.5, 1)), colour(c, (0, 1), (0.03, 0.3), (0.75, 1))
    fall = np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)
    clouds = noise(c, height, width, unit / 9, unit / 5) + noise(c, height, width, unit / 25, unit / 16) * 0.4
    return _blend(_blend(top, low, fall), np.full(3, 245, np.float32), np.clip(clouds - c.between(0, 0.6), 0, 0.8))


def _bricks(c: Cursor, height: int, width: int, unit: float) -> Plane:
    row = unit * c.between(0.045, 0.085)
    brick, base = (row, row * c.between(1.8, 2.6)), colour(c, (-0.04, 0.09), (0.25, 0.75), (0.4, 0.85))
    return _masonry(c, height, width, brick, base)


def _tiles(c: Cursor, height: int, width: int, unit: float) -> Plane:
    side = unit * c.between(0.09, 0.16)
    return _masonry(c, height, width, (side, side), colour(c, (0, 1), (0.05, 0.45), (0.55, 0.95)), shift=0.0)


def _masonry(c: Cursor, height: int, width: int, cell: tuple[float, float], base: Plane, shift: float = 0.5) -> Plane:
    """Rows of cells with a shade each, joints between them, every other row shifted by a share of a cell."""
    row = np.arange(height, dtype=np.float32)[:, None] / cell[0] + c.unit()
    column = np.arange(width, dtype=np.float32)[None, :] / cell[1] + c.unit() + np.floor(row) * shift
    shades = c.field(int(height / cell[0]) + 3, int(width / cell[1] + height / cell[0]) + 4)
    shade = 0.8 + 0.4 * shades[np.floor(row).astype(int), np.floor(column).astype(int)]
    joint = (row % 1 < 1.4 / cell[0]) | (column % 1 < 1.4 / cell[1])
    joints = colour(c, (0, 1), (0, 0.15), (0.45, 0.9))
    grain = noise(c, height, width, 2, 2) * 0.06
    return _lit(np.where(joint[..., None], joints, _lit(base, shade)), 1 + grain)


def _wood(c: Cursor, height: int, width: int, unit: float) -> Plane:
    base, plank = colour(c, (0.04, 0.11), (0.3, 0.75), (0.4, 0.85)), unit * c.between(0.1, 0.22)
    row = np.arange(height, dtype=np.float32) / plank + c.unit()
    shade = 0.85 + 0.3 * c.field(int(height / plank) + 3)[np.floor(row).astype(int)]
    shade = np.where(row % 1 < 1.2 / plank, shade * 0.55, shade).astype(np.float32)
    grain = noise(c, height, width, 2, unit / 4) * 0.12 + noise(c, height, width, unit / 30, unit / 2) * 0.1
    return _lit(base, shade[:, None] * (1 + grain))


def _wallpaper(c: Cursor, height: int, width: int, unit: float) -> Plane:
    base, period = colour(c, (0, 1), (0.05, 0.5), (0.5, 0.95)), unit * c.between(0.05, 0.15)
    stripes = (np.arange(width, dtype=np.float32) / period % 1 < 0.5).astype(np.float32) * c.between(0, 0.25)
    return _lit(base, 0.9 + stripes[None, :] + noise(c, height, width, 2.5, 2.5) * 0.06)


def _asphalt(c: Cursor, height: int, width: int, unit: float) -> Plane:
    base = colour(c, (0, 1), (0, 0.12), (0.3, 0.6))
    grain = noise(c, height, width, 1.5, 1.5) * 0.18 + noise(c, height, width, unit / 6, unit / 3) * 0.12
    return _lit(base, 1 + grain)


_KINDS: dict[str, Callable[[Cursor, int, int, float], Plane]] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "sky": _sky,
    "bricks": _bricks,
    "tiles": _tiles,
    "wood": _wood,
    "wallpaper": _wallpaper,
    "asphalt": _asphalt,
}
BACKGROUNDS = tuple(_KINDS)
