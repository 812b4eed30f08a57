"""Images with one label each, read from the layouts in which ImageNet-1k, Places205 and iNaturalist 2018 are published.

Each is read from its own lists and folders as they are unpacked; nothing has to be converted.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.entries import path_id
from orl_ray.scenes.json_file import JsonFile

SPLITS = ("train", "val")
_IMAGENET_ENDING = ".JPEG"
_ROW = re.compile(r"(.+?)(?:\s+|,)(\d+)")
_DEVKIT = "ILSVRC2012_devkit_t12/data"
# Where Places205 keeps the list of a split and the images that it names: as unpacked side by side, as unpacked in
# folders of their own, and as ORL's code wants it.
_PLACES = (
    ("{split}_places205.csv", "images256"),
    ("trainvalsplit_places205/{split}_places205.csv", "data/vision/torralba/deeplearning/images256"),
    ("meta/{split}_labeled.txt", "{split}"),
)


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """One split of a data set, or a part of it.

    Attributes:
        root: the folder that the paths are relative to.
        paths: n image files, relative, in the order of their names.
        labels: (n,) int64, positions in ``classes``.
        classes: C names.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def ids(self) -> NDArray[np.int64]:
        """Return (n,) int64 ids, the hashes of the relative paths, which key all draws."""
        return np.array([path_id(path) for path in self.paths], dtype=np.int64)

    def at(self, positions: NDArray[np.int64]) -> "LabelledImages":
        """Return the images at (m,) int64 positions, with the same classes."""
        return LabelledImages(
            self.root, tuple(self.paths[int(position)] for position in positions), self.labels[positions], self.classes
        )


def imagenet(root: Path, split: str) -> LabelledImages:
    """Read ImageNet-1k: ``train/<wnid>/*.JPEG``; ``val`` in such folders, too, or flat with the development kit beside.

    Args:
        root: holds ``train`` and ``val``, and for a flat ``val`` ``ILSVRC2012_devkit_t12/data`` with ``meta.mat`` and
            ``ILSVRC2012_validation_ground_truth.txt``.
        split: ``train`` or ``val``.

    Returns:
        Classes are the sorted WordNet ids of the folders of ``train``.

    Raises:
        ValueError: a folder or a file of the kit is missing, or they do not go together.
    """
    _check_split(split)
    classes = tuple(sorted(path.name for path in root.glob("train/*") if path.is_dir()))
    if not classes:
        raise ValueError(f"{root}/train has no folders of classes: is {root} ImageNet?")
    folders = [path for path in (root / split).glob("*") if path.is_dir()]
    if not folders:
        return _imagenet_flat_val(root, classes)
    unknown = sorted({path.name for path in folders} - set(classes))
    if unknown:
        raise ValueError(f"{root}/{split} has folders that train does not have, such as {unknown[0]}")
    numbers = {name: number for number, name in enumerate(classes)}
    found = sorted(
        (f"{split}/{folder.name}/{path.name}", numbers[folder.name])
        for folder in folders
        for path in folder.iterdir()
        if path.name.endswith(_IMAGENET_ENDING)
    )
    return _labelled(root, found, classes)


def _imagenet_flat_val(root: Path, classes: tuple[str, ...]) -> LabelledImages:
    from scipy.io import loadmat

    kit = root / _DEVKIT
    truth, meta = kit / "ILSVRC2012_validation_ground_truth.txt", kit / "meta.mat"
    if not truth.is_file() or not meta.is_file():
        raise ValueError(f"{root}/val has no folders of classes, and {kit} lacks {truth.name} or {meta.name}")
    names = sorted(path.name for path in (root / "val").glob(f"*{_IMAGENET_ENDING}"))
    given = [int(line) for line in truth.read_text(encoding="utf-8").split()]
    if len(names) != len(given):
        raise ValueError(f"{root}/val has {len(names)} images, {truth} has {len(given)} labels")
    # The kit numbers classes in an order of its own; it has inner nodes of the hierarchy, too, which are no labels.
    synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
    of_kit = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted({label for label in given if of_kit.get(label) not in numbers})
    if unknown:
        raise ValueError(f"{truth} has labels without a folder in {root}/train, such as {unknown[0]}")
    found = [(f"val/{name}", numbers[of_kit[label]]) for name, label in zip(names, given, strict=True)]
    return _labelled(root, found, classes)


def places205(root: Path, split: str) -> LabelledImages:
    """Read Places205 by its lists, which give ``path label`` an image, such as ``a/abbey/gsun_….jpg 0``.

    Args:
        root: holds ``train_places205.csv``, ``val_places205.csv`` and ``images256``; or both archives unpacked into
            ``trainvalsplit_places205`` and ``data/vision/torralba/deeplearning/images256``; or, as for ORL's code,
            ``meta/train_labeled.txt``, ``meta/val_labeled.txt`` and ``train``, ``val``.
        split: ``train`` or ``val``.

    Returns:
        Classes are named by the folders of the training images.

    Raises:
        ValueError: there is no list, a line is malformed, or labels do not run from 0 without a gap.
    """
    _check_split(split)
    for list_name, images in _PLACES:
        if (root / list_name.format(split="train")).is_file():
            rows = _list_file(root / list_name.format(split=split))
            train = rows if split == "train" else _list_file(root / list_name.format(split="train"))
            folder = images.format(split=split)
            found = sorted((f"{folder}/{path}", label) for path, label in rows)
            return _labelled(root, found, _names_of_folders(train, root))
    places = ", ".join(name.format(split="train") for name, _ in _PLACES)
    raise ValueError(f"{root} has no list of Places205: looked for {places}")


def _names_of_folders(rows: Sequence[tuple[str, int]], root: Path) -> tuple[str, ...]:
    names = {label: path.rpartition("/")[0] for path, label in rows}
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"the labels of the training list in {root} must run from 0 without a gap")
    return tuple(names[label] or str(label) for label in range(len(names)))


def inaturalist18(root: Path, split: str) -> LabelledImages:
    """Read iNaturalist 2018: ``train2018.json`` and ``val2018.json``, whose file names start at the same folder.

    Args:
        root: holds the two files and ``train_val2018``.
        split: ``train`` or ``val``.

    Returns:
        Classes are the category ids of the training file, in their order, by their names where it gives any.

    Raises:
        ValueError: a file is missing or malformed, or an image does not have exactly one annotation of a known class.
    """
    _check_split(split)
    train = JsonFile.at(str(root / "train2018.json"))
    ids, names = set[int](), dict[int, str]()
    for key, _, row in train.lists("annotations", "categories", optional=("categories",), kind="iNaturalist's JSON"):
        if key == "categories":
            names[row["id"]] = row["name"]
        else:
            ids.add(row["category_id"])
    numbers = {category: number for number, category in enumerate(sorted(ids))}
    file = JsonFile.at(str(root / f"{split}2018.json"))
    paths, labels = dict[int, str](), dict[int, int]()
    for key, _, row in file.lists("images", "annotations", kind="iNaturalist's JSON"):
        if key == "images":
            paths[row["id"]] = row["file_name"]
        elif row["image_id"] in labels or row["category_id"] not in numbers:
            raise ValueError(f"{file}: image {row['image_id']} has several annotations, or one of an unknown class")
        else:
            labels[row["image_id"]] = numbers[row["category_id"]]
    if paths.keys() != labels.keys():
        raise ValueError(f"{file}: {len(paths)} images, but {len(labels)} annotations of them")
    found = sorted((path, labels[image]) for image, path in paths.items())
    return _labelled(root, found, tuple(names.get(category, str(category)) for category in sorted(ids)))


LAYOUTS: dict[str, Callable[[Path, str], LabelledImages]] = {
    "imagenet": imagenet,
    "places205": places205,
    "inaturalist18": inaturalist18,
}


def _labelled(root: Path, found: Sequence[tuple[str, int]], classes: tuple[str, ...]) -> LabelledImages:
    if not found:
        raise ValueError(f"{root}: the split has no images")
    labels = np.array([label for _, label in found], dtype=np.int64)
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"{root}: labels from {labels.min()} to {labels.max()}, but {len(classes)} classes")
    return LabelledImages(root, tuple(path for path, _ in found), labels, classes)


def _list_file(path: Path) -> list[tuple[str, int]]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = _ROW.fullmatch(line.strip())
        if row is None:
            raise ValueError(f"{path}, line {number}: expected 'path label', found {line!r}")
        rows.append((row[1], int(row[2])))
    return rows


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; choose one of {', '.join(SPLITS)}")
