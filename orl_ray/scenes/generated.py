"""The embedded collection: rendered scenes of several objects, with boxes, masks and labels.

A scene has a theme (street, shore, park, kitchen, room), which decides what objects and backgrounds go together, so
that neighbouring scenes mean something. Colours, textures, poses, sizes, light and occlusion are drawn without regard
to the class: only shape tells classes apart. A scene is a pure function of (seed, split, index, side); on one lock
file its bytes never change.
"""

import argparse
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orl_ray import draws
from orl_ray.folders import Folder
from orl_ray.scenes import composition, textures
from orl_ray.scenes.cursor import Cursor
from orl_ray.scenes.shapes import CLASSES, SHAPES

SPLITS = ("train", "validation", "test")
MAX_OBJECTS = 7
MIN_VISIBLE = 0.25  # objects with a smaller share of their area in sight are not annotated
_SIZES = (0.15, 0.6)  # longer side of an object, as a share of the scene's shorter side
_OFF_THEME = 0.15
_TRIES = 4
_OVERLAP = 0.5  # two objects may share so much of the smaller one's square before another place is preferred


@dataclass(frozen=True, slots=True)
class Theme:
    """What goes together: the objects of a theme, and what stands behind them above and below the horizon."""

    objects: tuple[str, ...]
    upper: tuple[str, ...]
    lower: tuple[str, ...]


THEMES = (
    Theme(("house", "car", "tree", "bicycle"), ("sky", "bricks"), ("asphalt", "grass")),
    Theme(("boat", "fish", "umbrella", "house"), ("sky", "water"), ("water", "sand")),
    Theme(("tree", "bicycle", "cat", "umbrella", "plant"), ("sky", "grass"), ("grass", "sand")),
    Theme(("mug", "bottle", "clock", "plant"), ("tiles", "wallpaper"), ("wood", "tiles")),
    Theme(("lamp", "chair", "clock", "cat", "mug"), ("wallpaper", "bricks"), ("wood", "wallpaper")),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered scene and what is to be seen in it.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: (n, 4) int32 xywh, pixels: the visible extent of each annotated object, back to front.
        class_ids: (n,) int64 positions in ``CLASSES``.
        masks: n arrays (H, W) bool: the visible pixels of each.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.int32]
    class_ids: NDArray[np.int64]
    masks: list[NDArray[np.bool_]]


def render_scene(seed: int, split: str, index: int, side: int) -> Scene:
    """Render one scene with 3 to 7 objects.

    Args:
        seed: the run's seed.
        split: one of ``SPLITS``; they share no draws.
        index: number of the scene within its split.
        side: longer side, pixels.

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    c = Cursor(draws.stream(seed, "generated", split), index)
    height, width = _frame(c, side)
    theme, light = THEMES[c.pick(len(THEMES))], c.between(0, 2 * math.pi)
    picture = _backdrop(c, theme, height, width)
    owner = np.full((height, width), -1, np.int64)
    classes, areas = [], []
    shadow, strength = c.between(0.03, 0.12), c.between(0.15, 0.55)
    for number, (size, left, top) in enumerate(_layout(c, height, width)):
        classes.append(_object_class(c, theme))
        sprite = composition.paint(c, SHAPES[CLASSES[classes[-1]]](c), size, light)
        at = round(left + (size - sprite.alpha.shape[1]) / 2), round(top + (size - sprite.alpha.shape[0]) / 2)
        owner[composition.lay(picture, sprite, *at, light, (shadow * size, strength))] = number
        areas.append(int((sprite.alpha >= 0.5).sum()))
    masks = [owner == number for number in range(len(classes))]
    seen = [number for number, mask in enumerate(masks) if mask.sum() >= max(1, MIN_VISIBLE * areas[number])]
    return Scene(
        image=_expose(c, picture, light),
        boxes=np.array([cv2.boundingRect(masks[number].astype(np.uint8)) for number in seen], np.int32).reshape(-1, 4),
        class_ids=np.array([classes[number] for number in seen], np.int64),
        masks=[masks[number] for number in seen],
    )


def write_collection(
    folder: str | Path | Folder, seed: int, split: str, images: int, side: int, start: int = 0
) -> None:
    """Write scenes ``start`` to ``start + images - 1`` as JPEG files with a COCO JSON.

    The folder then holds ``images/000000.jpg`` ... and ``instances.json``; an image's id is its index. The JSON is
    written last: without it, the folder holds what an earlier try left, and is written again. A folder that already
    holds this very collection is left as it is. Memory is bounded by the annotations.

    Args:
        folder: where to write, on a disk or in a bucket.
        seed: the run's seed.
        split: one of ``SPLITS``.
        images: how many scenes.
        side: longer side, pixels.
        start: index of the first scene.

    Raises:
        ValueError: the folder is there and holds anything else; it is left as it is.
    """
    folder, indices = Folder(folder), range(start, start + images)
    made_from: dict[str, int | str] = {"seed": seed, "split": split, "images": images, "side": side, "start": start}
    if _holds(folder, made_from, {_file_name(index) for index in indices}):
        return
    rows, annotations = [], []
    for index in indices:
        scene, encoded = render_scene(seed, split, index, side), io.BytesIO()
        Image.fromarray(scene.image).save(encoded, "jpeg", quality=90, subsampling=2, optimize=False)
        folder.write(f"images/{_file_name(index)}", encoded.getvalue())
        height, width, _ = scene.image.shape
        rows.append({"id": index, "file_name": _file_name(index), "width": width, "height": height})
        annotations += _annotations(scene, index)
    document = {
        "info": {"description": "Scenes rendered by orl_ray.scenes.generated", **made_from},
        "licenses": [],
        "images": rows,
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)],
    }
    folder.write("instances.json", json.dumps(document, separators=(",", ":")).encode())


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _holds(folder: Folder, made_from: dict[str, int | str], files: set[str]) -> bool:
    """Say whether a collection made from these arguments is there; raise where something else is."""
    names = folder.names()
    if not names or (names == {"images"} and folder.names("images") <= files):  # of a try that did not end
        return False
    try:
        info = json.loads(folder.read("instances.json"))["info"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} is there and is no generated collection; name another folder or remove it"
        ) from error
    if {key: info.get(key) for key in made_from} != made_from:
        raise ValueError(f"{folder} holds another collection ({info}); name another folder or remove it")
    return True


def _annotations(scene: Scene, index: int) -> list[dict[str, Any]]:
    rows = []
    for number, mask in enumerate(scene.masks):
        rows.append(
            {
                "id": index * MAX_OBJECTS + number + 1,
                "image_id": index,
                "category_id": int(scene.class_ids[number]) + 1,
                "bbox": scene.boxes[number].tolist(),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": _polygons(mask),
            }
        )
    return rows


def _polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Trace outer contours at double size: they run a quarter of a pixel inside the mask's edge and never collapse."""
    double = np.kron(mask.astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour.reshape(-1) + 0.5) / 2).tolist() for contour in contours]


def _frame(c: Cursor, side: int) -> tuple[int, int]:
    shorter = round(side * c.between(0.66, 1.0))
    return (shorter, side) if c.chance(0.65) else (side, shorter)


def _backdrop(c: Cursor, theme: Theme, height: int, width: int) -> textures.Plane:
    """Draw one or two backgrounds with a horizon between them; most but not all belong to the theme."""
    kinds = [
        textures.BACKGROUNDS[c.pick(len(textures.BACKGROUNDS))] if c.chance(_OFF_THEME) else choice[c.pick(len(choice))]
        for choice in (theme.upper, theme.lower)
    ]
    unit = float(max(height, width))
    picture = textures.background(c, kinds[1], height, width, unit)
    if c.chance(0.75):
        horizon = round(height * c.between(0.3, 0.7))
        picture[:horizon] = textures.background(c, kinds[0], horizon, width, unit)
    return picture


def _object_class(c: Cursor, theme: Theme) -> int:
    if c.chance(_OFF_THEME):
        return c.pick(len(CLASSES))
    return CLASSES.index(theme.objects[c.pick(len(theme.objects))])


def _layout(c: Cursor, height: int, width: int) -> list[tuple[float, float, float]]:
    """Draw (size, left, top) of each object, back to front in random order.

    Large ones find their places first; of a few places, the one that covers least is taken.
    """
    count, short = 3 + c.pick(MAX_OBJECTS - 2), min(height, width)
    sizes = sorted((short * _SIZES[0] * (_SIZES[1] / _SIZES[0]) ** c.unit() for _ in range(count)), reverse=True)
    placed: list[tuple[float, float, float]] = []
    for size in sizes:
        reach = size * 0.12  # an object may leave the frame by so much
        places = [
            (size, c.between(-reach, width - size + reach), c.between(-reach, height - size + reach))
            for _ in range(_TRIES)
        ]
        placed.append(min(places, key=lambda place: max((_covered(place, other) for other in placed), default=0.0)))
    return [placed[number] for number in np.argsort(c.field(count), kind="stable")]


def _covered(first: tuple[float, float, float], second: tuple[float, float, float]) -> float:
    """Return the intersection of two squares as a share of the smaller one, 0 where it is below a tolerated overlap."""
    wide = min(first[1] + first[0], second[1] + second[0]) - max(first[1], second[1])
    high = min(first[2] + first[0], second[2] + second[0]) - max(first[2], second[2])
    share = max(wide, 0) * max(high, 0) / min(first[0], second[0]) ** 2
    return share if share > _OVERLAP else 0.0


def _expose(c: Cursor, picture: textures.Plane, light: float) -> NDArray[np.uint8]:
    """Light the whole scene: a gradient towards the light, brightness, a tint, contrast and sensor noise."""
    height, width = picture.shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    gradient = 1 + c.between(0, 0.22) * (x[None, :] * math.cos(light) + y[:, None] * math.sin(light))
    tint = np.array([c.between(0.92, 1.08) for _ in range(3)], np.float32) * c.between(0.8, 1.12)
    contrast, grain = c.between(0.85, 1.1), c.between(1, 9)
    lit = (picture * gradient[..., None] * tint - 128) * contrast + 128 + (c.field(height, width, 1) - 0.5) * grain
    image: NDArray[np.uint8] = np.clip(np.rint(lit), 0, 255).astype(np.uint8)
    return image


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a collection from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orl_ray.scenes.generated", description="Render a collection of scenes."
    )
    parser.add_argument("--out", required=True, help="folder to write; it must not exist yet")
    parser.add_argument("--images", type=int, required=True, help="number of scenes")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=144, help="longer side, pixels")
    options = parser.parse_args(arguments)
    write_collection(options.out, options.seed, options.split, options.images, options.side)
    print(f"{options.images} scenes of {options.split} in {options.out}")


if __name__ == "__main__":
    main()
