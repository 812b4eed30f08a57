"""Images with a label a pixel, read from the layouts in which PASCAL VOC 2012, ADE20K and COCO-Stuff are published.

A COCO JSON with masks, such as that of generated scenes, becomes such a set, too: class 0 is what no mask covers.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orl_ray.evaluation.mean_iou import IGNORE
from orl_ray.scenes.json_file import JsonFile

LabelMap = NDArray[np.uint8]

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_ADE_CLASSES = 150
_ADE_SPLITS = {"train": "training", "val": "validation"}
# Of the 182 ids of COCO-Stuff, those that no image has; labels.txt of the set lists the rest.
_STUFF_IDS = 182
_STUFF_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)


@dataclass(frozen=True, slots=True)
class SegmentedImages:
    """One split of a data set.

    Attributes:
        name: the data set.
        images: n image files.
        label_map: position of an image -> its (H, W) uint8 classes, :data:`~orl_ray.evaluation.mean_iou.IGNORE` where
            there is none.
        classes: C names.
    """

    name: str
    images: tuple[Path, ...]
    label_map: Callable[[int], LabelMap]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def voc2012(root: Path, split: str) -> SegmentedImages:
    """Read PASCAL VOC 2012: 20 classes and background; borders (255) are ignored.

    Args:
        root: the folder ``VOCdevkit/VOC2012``.
        split: ``train``, ``val`` or ``trainval``.

    Raises:
        ValueError: a file is missing.
    """
    names = _lines(root / "ImageSets" / "Segmentation" / f"{split}.txt")
    images = _existing(root / "JPEGImages" / f"{name}.jpg" for name in names)
    maps = _existing(root / "SegmentationClass" / f"{name}.png" for name in names)
    return SegmentedImages("voc2012", images, lambda at: _png(maps[at]), VOC_CLASSES)


def ade20k(root: Path, split: str) -> SegmentedImages:
    """Read ADE20K as of the scene parsing challenge: 150 classes; what is none of them (0) is ignored.

    Args:
        root: the folder ``ADEChallengeData2016``.
        split: ``train`` or ``val``.

    Raises:
        ValueError: a file is missing.
    """
    folder = _ADE_SPLITS[split]
    images = _folder(root / "images" / folder, ".jpg")
    maps = _existing(root / "annotations" / folder / f"{image.stem}.png" for image in images)
    rows = [line.split("\t") for line in _lines(root / "objectInfo150.txt")[1:]]
    classes = tuple(row[-1].strip() for row in rows)
    if len(classes) != _ADE_CLASSES:
        raise ValueError(f"{root / 'objectInfo150.txt'} names {len(classes)} classes, not {_ADE_CLASSES}")
    numbers = np.arange(256) - 1
    numbers[0] = IGNORE
    return SegmentedImages("ade20k", images, lambda at: _renumbered(_png(maps[at]), numbers), classes)


def coco_stuff(root: Path, split: str) -> SegmentedImages:
    """Read COCO-Stuff: 171 classes of things and stuff; what is unlabelled (255) is ignored.

    Args:
        root: holds ``train2017/`` and ``val2017/`` with images, ``stuffthingmaps/train2017/`` and ``val2017/`` with the
            maps of ``stuffthingmaps_trainval2017.zip``, and its ``labels.txt``.
        split: ``train`` or ``val``.

    Raises:
        ValueError: a file is missing.
    """
    images = _folder(root / f"{split}2017", ".jpg")
    maps = _existing(root / "stuffthingmaps" / f"{split}2017" / f"{image.stem}.png" for image in images)
    named = dict(line.split(": ", 1) for line in _lines(root / "labels.txt"))
    used = [number for number in range(1, _STUFF_IDS + 1) if number not in _STUFF_UNUSED]
    numbers = np.full(256, -1)
    numbers[[number - 1 for number in used]] = np.arange(len(used))  # a map holds ids less one
    numbers[IGNORE] = IGNORE
    classes = tuple(named[str(number)] for number in used)
    return SegmentedImages("coco_stuff", images, lambda at: _renumbered(_png(maps[at]), numbers), classes)


def coco_masks(images: Path, annotations: Path, splits: Path | None = None, split: str = "") -> SegmentedImages:
    """Read masks of a COCO JSON as label maps.

    Where masks overlap, the smaller object lies on top; crowds are ignored where no object covers them.

    Args:
        images: the image folder.
        annotations: the COCO JSON, with polygons or RLE.
        splits: JSON ``{split: [file names]}``; None takes all images.
        split: which of them.

    Raises:
        ValueError: a file is missing or is not what it should be.
    """
    content: dict[str, Any] = JsonFile.at(str(annotations)).load()
    chosen = None if splits is None else set(JsonFile.at(str(splits)).load()[split])
    rows = [row for row in content["images"] if chosen is None or row["file_name"] in chosen]
    categories = sorted(content["categories"], key=lambda category: category["id"])
    numbers = {category["id"]: number for number, category in enumerate(categories, 1)}
    by_image: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
    for annotation in content["annotations"]:
        if annotation["image_id"] in by_image:
            by_image[annotation["image_id"]].append(annotation)
    files = _existing(images / row["file_name"] for row in rows)
    classes = ("background", *(category["name"] for category in categories))
    return SegmentedImages(
        "coco_masks", files, lambda at: _painted(rows[at], by_image[rows[at]["id"]], numbers), classes
    )


def _painted(image: dict[str, Any], annotations: Sequence[dict[str, Any]], numbers: dict[int, int]) -> LabelMap:
    from pycocotools import mask

    height, width = image["height"], image["width"]
    painted = np.zeros((height, width), np.uint8)
    # The lowest layer first: crowds, then objects by falling area.
    for annotation in sorted(annotations, key=lambda row: (not row.get("iscrowd", 0), -row["area"])):
        shape = annotation["segmentation"]
        if isinstance(shape, list):
            shape = mask.merge(mask.frPyObjects(shape, height, width))
        elif isinstance(shape["counts"], list):
            shape = mask.frPyObjects(shape, height, width)
        number = IGNORE if annotation.get("iscrowd", 0) else numbers[annotation["category_id"]]
        painted[mask.decode(shape).astype(np.bool_)] = number
    return painted


def _png(path: Path) -> LabelMap:
    """Read the numbers of a PNG of one channel: those behind the colours of a palette, not the colours."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"{path} is no label map: it has mode {image.mode}, not one channel of 8 bits")
        return np.array(image)


def _renumbered(numbers: LabelMap, table: NDArray[np.int64]) -> LabelMap:
    found = table[numbers]
    if (found < 0).any():
        raise ValueError(f"a label map holds {numbers[found < 0][0]}, which is no class")
    return found.astype(np.uint8)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"no file at {path}: is this the layout as it is published?") from error


def _folder(folder: Path, ending: str) -> tuple[Path, ...]:
    found = tuple(sorted(folder.glob(f"*{ending}")))
    if not found:
        raise ValueError(f"no images at {folder}: is this the layout as it is published?")
    return found


def _existing(paths: Any) -> tuple[Path, ...]:
    found = tuple(paths)
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(found)} files are missing, first {missing[0]}")
    return found
