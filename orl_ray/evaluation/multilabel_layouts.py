"""Images with several labels each, read from the layouts in which PASCAL VOC 2007 and COCO are published."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.labels import read_labels

PRESENT, ABSENT, IGNORED = 1, 0, -1
_VOC_ROOT = "VOCdevkit/VOC2007"
# What the class files of VOC say -> what is meant: 0 stands for images that show the class only as "difficult".
_VOC_LABELS = {"1": PRESENT, "-1": ABSENT, "0": IGNORED}
VOC_SPLITS = ("train", "val", "trainval", "test")


@dataclass(frozen=True, slots=True)
class MultiLabelImages:
    """One split of a data set.

    Attributes:
        paths: n image files, in the order of their names.
        targets: (n, C) int8: 1 the image shows the class, 0 it does not, -1 neither can be said.
        classes: C names.
    """

    paths: tuple[Path, ...]
    targets: NDArray[np.int8]
    classes: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """Name the split by its numbers of images and classes, and a hash of file names, classes and labels."""
        names = "\n".join([*(path.name for path in self.paths), *self.classes])
        hashed = hashlib.sha256(names.encode() + np.ascontiguousarray(self.targets).tobytes())
        return {"images": len(self.paths), "classes": len(self.classes), "hash": hashed.hexdigest()[:16]}


def voc07(root: Path, split: str) -> MultiLabelImages:
    """Read PASCAL VOC 2007 as it is unpacked: ``VOCdevkit/VOC2007/{JPEGImages,ImageSets/Main,Annotations}``.

    Labels are those of the class files (``ImageSets/Main/aeroplane_trainval.txt`` …), which say what the XML files in
    ``Annotations`` say, image by image.

    Args:
        root: the folder that holds ``VOCdevkit``.
        split: ``train``, ``val``, ``trainval`` (5,011 images) or ``test`` (4,952).

    Raises:
        ValueError: the split is unknown, files are missing, or the class files and the split do not list the same
            images.
    """
    if split not in VOC_SPLITS:
        raise ValueError(f"VOC 2007 has no split {split!r}; choose one of {', '.join(VOC_SPLITS)}")
    base = root / _VOC_ROOT
    sets = base / "ImageSets/Main"
    files = {path.name.removesuffix(f"_{split}.txt"): path for path in sorted(sets.glob(f"*_{split}.txt"))}
    names = tuple(sorted(line.split()[0] for line in _lines(sets / f"{split}.txt")))
    if not files or not names:
        raise ValueError(
            f"{sets} has no {split}.txt with images and class files CLASS_{split}.txt: is {root} VOC 2007?"
        )
    targets = np.empty((len(names), len(files)), dtype=np.int8)
    for column, (name, path) in enumerate(files.items()):
        labels = dict(line.split() for line in _lines(path))
        if labels.keys() != set(names) or not set(labels.values()) <= _VOC_LABELS.keys():
            raise ValueError(f"{path} ({name}) must give each image of {split}.txt one label of 1, 0 and -1")
        targets[:, column] = [_VOC_LABELS[labels[image]] for image in names]
    return MultiLabelImages(_existing(base / "JPEGImages", [f"{name}.jpg" for name in names]), targets, tuple(files))


def coco(images: Path, annotations: Path, splits: Path, split: str) -> MultiLabelImages:
    """Read a COCO JSON with a file that tells its images apart into splits.

    Args:
        images: the folder of the images.
        annotations: a COCO JSON with ``images``, ``annotations`` and ``categories``. An image shows a class where it
            has an annotation of it, crowds included.
        splits: a JSON object: name of the split -> file names.
        split: which one.

    Raises:
        ValueError: a file is missing or malformed, or the split names an image that the JSON does not list.
    """
    listed: dict[str, list[str]] = json.loads(splits.read_text(encoding="utf-8"))
    if split not in listed:
        raise ValueError(f"{splits} has no split {split!r}, only {', '.join(listed)}")
    file = JsonFile.at(str(annotations))
    ids = {row["file_name"]: row["id"] for _, _, row in file.lists("images")}
    names = sorted(listed[split])
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise ValueError(f"{annotations} does not list {len(unknown)} images of {splits}, such as {unknown[0]}")
    labels = read_labels([file])
    present = labels.present(np.array([ids[name] for name in names], dtype=np.int64))
    return MultiLabelImages(_existing(images, names), present.astype(np.int8), labels.classes)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _existing(folder: Path, names: list[str]) -> tuple[Path, ...]:
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} images are not in {folder}, such as {missing[0]}")
    return tuple(folder / name for name in names)
