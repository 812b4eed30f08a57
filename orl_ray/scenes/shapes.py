"""The outlines of the generated classes: polygons and strokes with random proportions, in no colour yet.

A class is drawn about the origin, y downwards, within a few units; only proportions matter, as objects are scaled to
their size later. Parts are listed back to front.
"""

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.cursor import Cursor

Points = NDArray[np.float64]


class Paint(enum.IntEnum):
    """What a part is painted with. The colours and the texture behind each are drawn per object, whatever its class."""

    BODY = 1
    SECOND = 2
    DARK = 3
    LIGHT = 4
    EDGE = 5


@dataclass(frozen=True, slots=True)
class Part:
    """One polygon or stroke of an object.

    Attributes:
        points: (n, 2) x and y.
        paint: its paint.
        width: 0 for a filled polygon, else the width of the stroke.
        closed: whether a stroke joins its ends.
    """

    points: Points
    paint: Paint
    width: float = 0.0
    closed: bool = False


def _points(*pairs: tuple[float, float]) -> Points:
    return np.array(pairs, np.float64)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return _points((left, top), (right, top), (right, bottom), (left, bottom))


def _arc(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> Points:
    """Points of an ellipse from ``start`` to ``end`` degrees, clockwise on the screen from the right."""
    angles = np.radians(np.linspace(start, end, 28, endpoint=abs(end - start) < 360))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _leaf(x: float, y: float, length: float, width: float, degrees: float) -> Points:
    """A pointed oval that starts at (x, y) and points in a direction, 0 to the right and 90 up."""
    along = np.concatenate([np.linspace(0, 1, 9), np.linspace(1, 0, 9)[1:-1]])
    side = np.concatenate([np.ones(9), -np.ones(7)]) * np.sin(np.pi * along) * width / 2
    angle = np.radians(-degrees)
    return np.stack(
        [
            x + along * length * np.cos(angle) - side * np.sin(angle),
            y + along * length * np.sin(angle) + side * np.cos(angle),
        ],
        axis=1,
    )


def _house(c: Cursor) -> list[Part]:
    half, wall, roof, eaves = c.between(0.7, 1.1), c.between(0.8, 1.3), c.between(0.5, 1.0), c.between(0.1, 0.25)
    ridge = c.between(0.0, 0.6) * half
    parts = []
    if c.chance(0.6):
        at = c.between(-0.6, 0.5) * half
        parts.append(Part(_box(at, -roof * 0.95, at + 0.22, 0), Paint.DARK))
    parts.append(Part(_box(-half, 0, half, wall), Paint.BODY))
    parts.append(
        Part(_points((-half - eaves, 0.05), (-ridge, -roof), (ridge, -roof), (half + eaves, 0.05)), Paint.SECOND)
    )
    door = c.between(-0.7, 0.4) * half
    parts.append(Part(_box(door, wall * 0.45, door + 0.35, wall), Paint.DARK))
    spots = [x for x in (-0.78, -0.2, 0.4) if abs(x * half - door) > 0.42]
    parts += [Part(_box(x * half, wall * 0.25, x * half + 0.3, wall * 0.58), Paint.LIGHT) for x in spots]
    return parts


def _tree(c: Cursor) -> list[Part]:
    trunk = c.between(0.1, 0.2)
    parts = [Part(_points((-trunk, 1.2), (-trunk * 0.6, 0), (trunk * 0.6, 0), (trunk, 1.2)), Paint.DARK)]
    if c.chance(0.45):
        tiers, half = 2 + c.pick(3), c.between(0.6, 0.9)
        for tier in range(tiers):
            shrink, bottom = 1 - 0.62 * tier / tiers, 0.55 - 1.5 * tier / tiers
            parts.append(
                Part(_points((-half * shrink, bottom), (0, bottom - 1.1 * shrink), (half * shrink, bottom)), Paint.BODY)
            )
        return parts
    lobes, spread = 5 + c.pick(3), c.between(0.4, 0.55)
    for lobe in range(lobes):
        angle = 2 * np.pi * (lobe + c.unit() * 0.6) / lobes
        radius = c.between(0.32, 0.5)
        parts.append(Part(_arc(spread * np.cos(angle), -0.45 + spread * np.sin(angle), radius, radius), Paint.BODY))
    return [*parts, Part(_arc(0, -0.45, spread, spread), Paint.BODY)]


def _car(c: Cursor) -> list[Part]:
    hood, tall, wheel = c.between(0.3, 0.6), c.between(0.35, 0.5), c.between(0.2, 0.27)
    back = c.between(0.75, 1.05)
    cabin = _points((-back, 0), (-back * 0.75, -tall), (0.3, -tall), (1.2 - hood, 0))
    parts = [
        Part(cabin, Paint.BODY),
        Part(_points((-1.2, 0), (1.05, 0), (1.25, 0.18), (1.25, 0.5), (-1.2, 0.5)), Paint.BODY),
        Part(
            _points((-back * 0.85, -0.02), (-back * 0.66, -tall * 0.82), (-0.2, -tall * 0.82), (-0.2, -0.02)),
            Paint.LIGHT,
        ),
        Part(_points((-0.1, -0.02), (-0.1, -tall * 0.82), (0.24, -tall * 0.82), (1.0 - hood, -0.02)), Paint.LIGHT),
        Part(_box(1.08, 0.14, 1.25, 0.28), Paint.SECOND),
    ]
    for x in (-0.7, 0.75):
        parts += [
            Part(_arc(x, 0.5, wheel, wheel), Paint.DARK),
            Part(_arc(x, 0.5, wheel * 0.45, wheel * 0.45), Paint.LIGHT),
        ]
    return parts


def _bicycle(c: Cursor) -> list[Part]:
    wheel, base, pipe = c.between(0.42, 0.55), c.between(0.68, 0.82), c.between(0.09, 0.13)
    seat, bar = c.between(-0.6, -0.45), c.between(-0.75, -0.6)
    crank, rear, front = (-0.05, 0.45), (-base, 0.4), (base, 0.4)
    post, head = (-0.28, seat + 0.12), (base * 0.66, bar + 0.15)
    parts = [Part(_arc(x, 0.4, wheel, wheel), Paint.DARK, c.between(0.08, 0.12), closed=True) for x in (-base, base)]
    parts += [
        Part(_points(*line), Paint.BODY, pipe)
        for line in ((rear, crank, head, post, rear), (crank, post), (front, head))
    ]
    parts.append(Part(_box(-0.45, seat, -0.12, seat + 0.13), Paint.SECOND))
    parts.append(Part(_points((head[0] - 0.15, bar - 0.02), (head[0], bar), head), Paint.SECOND, pipe))
    return parts


def _boat(c: Cursor) -> list[Part]:
    half, deep, mast = c.between(0.8, 1.1), c.between(0.3, 0.5), c.between(1.1, 1.5)
    jib = c.between(0.4, 0.75) * half
    return [
        Part(_points((0, 0.1), (0, -mast)), Paint.DARK, 0.08),
        Part(_points((0.08, -mast * 0.95), (0.08, -0.12), (half * 0.9, -0.12)), Paint.SECOND),
        Part(_points((-0.08, -mast * c.between(0.6, 0.9)), (-0.08, -0.12), (-jib, -0.12)), Paint.LIGHT),
        Part(_points((-half, 0), (half, 0), (half * 0.7, deep), (-half * 0.65, deep)), Paint.BODY),
        Part(_points((-half, 0.0), (half, 0.0)), Paint.DARK, 0.07),
    ]


def _fish(c: Cursor) -> list[Part]:
    tall, tail, fork = c.between(0.35, 0.62), c.between(0.35, 0.6), c.between(0.3, 0.5)
    return [
        Part(_points((-0.7, 0), (-0.9 - tail, -fork), (-0.78 - tail * 0.5, 0), (-0.9 - tail, fork)), Paint.SECOND),
        Part(_points((-0.4, -tall * 0.75), (0.0, -tall - 0.3), (0.35, -tall * 0.75)), Paint.SECOND),
        Part(_arc(0, 0, 0.95, tall), Paint.BODY),
        Part(_leaf(0.15, 0.1, 0.45, 0.25, 205), Paint.SECOND),
        Part(_arc(0.45, 0, 0.25, tall * 0.8, -60, 60), Paint.EDGE, 0.04),
        Part(_arc(0.62, -tall * 0.25, 0.13, 0.13), Paint.LIGHT),
        Part(_arc(0.65, -tall * 0.25, 0.06, 0.06), Paint.DARK),
    ]


def _umbrella(c: Cursor) -> list[Part]:
    tall, panels, shaft = c.between(0.65, 0.95), 4 + c.pick(3), c.between(1.0, 1.3)
    edges = np.linspace(-1, 1, panels + 1)
    parts = [
        Part(_points((0, -tall - 0.15), (0, shaft)), Paint.DARK, 0.09),
        Part(_arc(0.16, shaft, 0.16, 0.18, 180, 0), Paint.DARK, 0.09),
    ]
    dome = _arc(0, 0, 1, tall, 180, 360)
    scallops = [_arc((a + b) / 2, 0, (b - a) / 2, -0.13, 0, 180) for a, b in itertools.pairwise(edges)]
    parts.append(Part(np.concatenate([dome, *scallops[::-1]]), Paint.BODY))
    for panel in range(1, panels, 2):
        left, right = edges[panel], edges[min(panel + 1, panels)]
        rim = _arc((left + right) / 2, 0, (right - left) / 2, -0.13, 0, 180)
        parts.append(Part(np.concatenate([_points((0, -tall)), rim]), Paint.SECOND))
    return parts


def _mug(c: Cursor) -> list[Part]:
    half, tall, taper, flat = c.between(0.5, 0.7), c.between(1.1, 1.5), c.between(0.75, 1.0), c.between(0.12, 0.2)
    low = half * taper
    wall = np.concatenate([_points((-half, 0)), _arc(0, tall, low, flat, 180, 0)[:, :], _points((half, 0))])
    parts = [
        Part(
            _arc(half * 0.95, tall * 0.5, c.between(0.35, 0.5), tall * 0.3, -95, 95), Paint.BODY, c.between(0.13, 0.18)
        ),
        Part(wall, Paint.BODY),
        Part(_arc(0, 0, half, flat), Paint.LIGHT),
        Part(_arc(0, 0.03, half * 0.85, flat * 0.75), Paint.DARK),
    ]
    if c.chance(0.5):
        at = tall * c.between(0.3, 0.6)
        parts.insert(2, Part(_box(-half * 0.86, at, half * 0.86, at + 0.25), Paint.SECOND))
    return parts


def _bottle(c: Cursor) -> list[Part]:
    half, neck, shoulder, tall = c.between(0.3, 0.45), c.between(0.1, 0.16), c.between(0.3, 0.6), c.between(1.0, 1.4)
    curve = np.linspace(0, np.pi, 9)
    flank = np.stack([neck + (half - neck) * (1 - np.cos(curve)) / 2, -0.5 + shoulder * curve / np.pi], axis=1)
    right = np.concatenate([_points((neck, -0.95)), flank, _points((half, tall), (half * 0.85, tall + 0.08))])
    left = right[::-1] * [-1, 1]
    label = -0.5 + shoulder + 0.15
    return [
        Part(np.concatenate([right, left]), Paint.BODY),
        Part(_box(-half, label, half, label + (tall - label) * c.between(0.4, 0.75)), Paint.SECOND),
        Part(_box(-neck * 1.25, -1.15, neck * 1.25, -0.9), Paint.DARK),
        Part(_points((-half * 0.6, label - 0.1), (-half * 0.6, label + 0.05)), Paint.LIGHT, 0.06),
    ]


def _lamp(c: Cursor) -> list[Part]:
    top, low, tall = c.between(0.2, 0.45), c.between(0.65, 0.9), c.between(0.6, 0.95)
    stem, foot = c.between(0.8, 1.3), c.between(0.35, 0.55)
    parts = [Part(_points((0, 0), (0, stem)), Paint.DARK, c.between(0.08, 0.14))]
    if c.chance(0.5):
        parts.append(Part(_arc(0, stem * 0.55, c.between(0.16, 0.3), stem * 0.32), Paint.SECOND))
    parts.append(Part(_arc(0, stem, foot, 0.13), Paint.SECOND))
    parts.append(Part(_points((-top, -tall), (top, -tall), (low, 0), (-low, 0)), Paint.BODY))
    parts.append(Part(_box(-low, -0.09, low, 0.02), Paint.LIGHT))
    return parts


def _chair(c: Cursor) -> list[Part]:
    half, back, leg, lean = c.between(0.5, 0.65), c.between(0.9, 1.3), c.between(0.7, 0.95), c.between(0.15, 0.35)
    thick, slats = c.between(0.1, 0.15), 2 + c.pick(3)
    left, right = -half + lean, half + lean  # the far edge of the seat stands right of the near edge
    parts = [Part(_points((x, 0), (x, leg * 0.8)), Paint.DARK, thick) for x in (left + 0.06, right - 0.06)]
    parts += [Part(_points((x, -back), (x, 0)), Paint.BODY, thick) for x in (left + 0.06, right - 0.06)]
    for slat in range(slats):
        y = -back + 0.08 + slat * back * 0.8 / slats
        parts.append(Part(_box(left, y, right, y + back * 0.42 / slats), Paint.BODY))
    parts.append(Part(_points((left, -0.05), (right, -0.05), (half, 0.32), (-half, 0.32)), Paint.SECOND))
    parts += [Part(_points((x, 0.32), (x, 0.32 + leg)), Paint.DARK, thick) for x in (-half + 0.06, half - 0.06)]
    return parts


def _clock(c: Cursor) -> list[Part]:
    rim, hour, minute = c.between(0.72, 0.82), c.unit() * 2 * np.pi, c.unit() * 2 * np.pi
    square = c.chance(0.35)
    parts = [
        Part(_box(-1, -1, 1, 1) if square else _arc(0, 0, 1, 1), Paint.BODY),
        Part(_arc(0, 0, rim, rim), Paint.LIGHT),
    ]
    if not square and c.chance(0.5):
        bells = [Part(_arc(x, -0.95, 0.36, 0.3), Paint.SECOND) for x in (-0.6, 0.6)]
        feet = [Part(_points((x * 0.7, 0.7), (x, 1.15)), Paint.DARK, 0.16) for x in (-0.8, 0.8)]
        parts = [*feet, *bells, *parts]
    for tick in range(12):
        angle = tick * np.pi / 6
        way = np.array([np.cos(angle), np.sin(angle)])
        parts.append(Part(np.stack([way * rim * 0.78, way * rim * 0.92]), Paint.DARK, 0.07))
    for angle, length, width in ((hour, 0.4, 0.13), (minute, 0.62, 0.09)):
        parts.append(Part(_points((0, 0), (length * np.cos(angle), length * np.sin(angle))), Paint.DARK, width))
    return parts


def _plant(c: Cursor) -> list[Part]:
    leaves, length, width = 5 + c.pick(4), c.between(0.9, 1.3), c.between(0.28, 0.45)
    top, low, tall = c.between(0.45, 0.6), c.between(0.28, 0.42), c.between(0.6, 0.85)
    fan = np.linspace(20, 160, leaves)
    order = np.argsort(-np.abs(fan - 90), kind="stable")  # the upright leaves stand in front
    parts = [
        Part(_leaf(0, 0.05, length * c.between(0.75, 1.1), width, fan[i] + c.between(-8, 8)), Paint.BODY) for i in order
    ]
    parts.append(Part(_points((-top * 0.92, 0.1), (top * 0.92, 0.1), (low, tall), (-low, tall)), Paint.SECOND))
    parts.append(Part(_box(-top, -0.05, top, 0.16), Paint.SECOND))
    return parts


def _cat(c: Cursor) -> list[Part]:
    head, belly, ear = c.between(0.38, 0.46), c.between(0.5, 0.65), c.between(0.28, 0.42)
    curl = c.between(0.25, 0.45)
    parts = [
        Part(_arc(belly + 0.1, 0.75, 0.35, curl, 150, -80), Paint.BODY, 0.17),
        Part(_arc(0, 0.55, belly, 0.78), Paint.BODY),
        Part(_arc(0, 0.72, belly * 0.5, 0.5), Paint.SECOND),
    ]
    for side in (-1, 1):
        parts.append(Part(_arc(side * belly * 0.45, 1.25, 0.24, 0.12), Paint.SECOND))
        parts.append(
            Part(_points((side * head, -0.45), (side * head * 0.9, -0.62 - ear), (side * 0.06, -0.72)), Paint.BODY)
        )
    parts.append(Part(_arc(0, -0.4, head + 0.08, head), Paint.BODY))
    for side in (-1, 1):
        parts.append(Part(_arc(side * 0.19, -0.45, 0.11, 0.13), Paint.LIGHT))
        parts.append(Part(_arc(side * 0.19, -0.45, 0.045, 0.11), Paint.DARK))
        parts.append(Part(_points((side * 0.15, -0.22), (side * 0.6, -0.28)), Paint.LIGHT, 0.035))
    return [*parts, Part(_points((-0.09, -0.3), (0.09, -0.3), (0, -0.2)), Paint.DARK)]


SHAPES: dict[str, Callable[[Cursor], list[Part]]] = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "bicycle": _bicycle,
    "boat": _boat,
    "fish": _fish,
    "umbrella": _umbrella,
    "mug": _mug,
    "bottle": _bottle,
    "lamp": _lamp,
    "chair": _chair,
    "clock": _clock,
    "plant": _plant,
    "cat": _cat,
}
CLASSES = tuple(SHAPES)
