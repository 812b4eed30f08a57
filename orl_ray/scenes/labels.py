"""Image-level labels from COCO JSONs, for evaluation only: which classes an image shows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.config import Config
from orl_ray.scenes.entries import is_id
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.sources import raise_problems, source_folders
from orl_ray.storage import Store

# A box may end this far outside its image, pixels: coordinates are rounded, and some tools count from 1.
_TOLERANCE = 1.0
_BATCH = 65_536
# Letters of a bad value in a message.
_SHOWN = 100
# The image's id, the category's id, what stands there for people, the box.
_Annotation = tuple[int, int, str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Labels:
    """Which of C classes each of n images shows, a bit each.

    Attributes:
        image_ids: (n,) int64, ascending.
        classes: C class names, in the order of their category ids.
        bits: (n, ceil(C / 8)) uint8, rows packed by ``numpy.packbits``.
        odd: what is odd about the annotations, in words -> how many of them; none of it matters to these labels.
    """

    image_ids: NDArray[np.int64]
    classes: tuple[str, ...]
    bits: NDArray[np.uint8]
    odd: dict[str, int]

    def known(self, image_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which images have labels, be it that they show no class.

        Args:
            image_ids: (m,) int64.

        Returns:
            (m,) bool.
        """
        return _find(self.image_ids, image_ids)[1]

    def present(self, image_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which classes images show.

        Args:
            image_ids: (m,) int64, all of them known.

        Returns:
            (m, C) bool.

        Raises:
            ValueError: an image has no labels.
        """
        places, known = _find(self.image_ids, image_ids)
        if not known.all():
            unknown = image_ids[~known]
            raise ValueError(f"{len(unknown)} images have no entry in the annotations, such as image {unknown[0]}")
        return np.unpackbits(self.bits[places], axis=1, count=len(self.classes)).astype(bool)


def labelled_files(config: Config, store: Store, split: str = "train") -> list[JsonFile]:
    """Return those COCO JSONs of a source that list any annotation; those of unlabelled images do not.

    Raises:
        ValueError: a file is missing, or is no COCO JSON.
    """
    files = [folder.annotations for folder in source_folders(config, store, split) if folder.annotations]
    return [file for file in files if any(True for _ in file.lists("annotations", optional=("annotations",)))]


def read_labels(files: Sequence[JsonFile]) -> Labels:
    """Read which classes each image shows: a class is present where it has at least one annotation, crowds included.

    The files are read as streams, twice. Memory: 16 + C / 8 bytes an image, twice that while they are read.

    Args:
        files: COCO JSONs with images, annotations and categories; the same categories in all. Images without
            annotations show no class. Images that the listing refuses are left out, of those with one id the first
            counts. Annotations of images that are not listed, and boxes outside their image, are counted in ``odd``.

    Raises:
        ValueError: a file is no COCO JSON, categories are bad or differ, annotations name unknown categories, or none
            of the images that are listed. Up to ten problems are listed at once.
    """
    image_ids, sizes, categories = _images_and_categories(files)
    category_ids = np.array([row["id"] for row in categories], np.int64)
    bits = np.zeros((len(image_ids), -(-len(categories) // 8)), np.uint8)
    odd = {"annotations of images that are not listed": 0, "boxes that reach outside their image": 0, "empty boxes": 0}
    total = 0
    for file in files:
        rows, start = (_wanted_of(row) for _, _, row in file.lists("annotations")), 0
        while batch := list(islice(rows, _BATCH)):
            total += len(batch)
            _add(batch, start, str(file), image_ids, category_ids, sizes, bits, odd)
            start += len(batch)
    if total and odd["annotations of images that are not listed"] == total:
        raise ValueError(f"bad labels in {', '.join(map(str, files))}: no annotation is of an image that is listed")
    return Labels(image_ids, tuple(row["name"] for row in categories), bits, odd)


def _wanted_of(row: object) -> _Annotation:
    """Keep what labels need of an annotation: a polygon takes kilobytes as Python's numbers."""
    cells = row if isinstance(row, dict) else {}
    category = cells.get("category_id")
    shown = str(category) if is_id(category) else repr(category)[:_SHOWN]
    return _id(cells.get("image_id")), _id(category), shown, _box(cells.get("bbox"))


def _add(
    batch: list[_Annotation],
    start: int,
    where: str,
    image_ids: NDArray[np.int64],
    category_ids: NDArray[np.int64],
    sizes: NDArray[np.float32],
    bits: NDArray[np.uint8],
    odd: dict[str, int],
) -> None:
    """Set the bits of a batch of annotations, and count what is odd."""
    images = np.array([image for image, *_ in batch], np.int64)
    categories = np.array([category for _, category, *_ in batch], np.int64)
    row_of, image_known = _find(image_ids, images)
    column_of, category_known = _find(category_ids, categories)
    wrong = np.flatnonzero(image_known & ~category_known)
    problems = [f"annotations[{start + at}]: unknown category_id {batch[at][2]}" for at in wrong]
    raise_problems(f"bad labels in {where}", problems)
    rows, columns = row_of[image_known], column_of[image_known]
    np.bitwise_or.at(bits, (rows, columns // 8), (128 >> (columns % 8)).astype(np.uint8))
    boxes = np.array([box for *_, box in batch], np.float64).reshape(-1, 4)[image_known]
    ends = boxes[:, :2] + boxes[:, 2:]
    outside = (boxes[:, :2] < -_TOLERANCE).any(axis=1) | (ends > sizes[rows] + _TOLERANCE).any(axis=1)
    odd["annotations of images that are not listed"] += int((~image_known).sum())
    odd["boxes that reach outside their image"] += int(outside.sum())
    odd["empty boxes"] += int((boxes[:, 2:] <= 0).any(axis=1).sum())


def _find(known: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the place of each wanted id among the known ones, which ascend, and whether it is there."""
    places = np.searchsorted(known, wanted).astype(np.int64)
    places[places == len(known)] = 0
    return places, (known[places] == wanted) if len(known) else np.zeros(len(wanted), bool)


def _id(value: object) -> int:
    return int(value) if is_id(value) else -1  # type: ignore[call-overload]


def _box(value: object) -> tuple[float, ...]:
    """Return a box, or not-a-number, of which nothing is told, where there is none."""
    if isinstance(value, list) and len(value) == 4 and all(isinstance(number, int | float) for number in value):
        return tuple(value)
    return (np.nan,) * 4


def _images_and_categories(
    files: Sequence[JsonFile],
) -> tuple[NDArray[np.int64], NDArray[np.float32], list[dict[str, Any]]]:
    """Return the ids of all images, ascending, their (width, height), infinite where not said, and the categories."""
    ids, sizes, categories = [np.empty(0, np.int64)], [np.empty((0, 2), np.float32)], None
    for file in files:
        own: list[Any] = []
        images = _image_sizes(file, own)
        while batch := list(islice(images, _BATCH)):
            ids.append(np.array([image_id for image_id, *_ in batch], np.int64))
            sizes.append(np.array([size for _, *size in batch], np.float32))
        raise_problems(f"bad labels in {file}", list(_category_problems(own)))
        found = sorted(({"id": row["id"], "name": row["name"]} for row in own), key=lambda row: row["id"])
        if categories is not None and found != categories:
            raise ValueError(f"bad labels: the categories of {file} and of {files[0]} differ")
        categories = found
    unique, first = np.unique(np.concatenate(ids), return_index=True)
    return unique, np.concatenate(sizes)[first], categories or []


def _image_sizes(file: JsonFile, categories: list[Any]) -> Iterator[tuple[int, float, float]]:
    """Yield id, width and height of the images of a file that have an id, and put its categories aside."""
    for key, _, row in file.lists("images", "categories"):
        if key == "categories":
            categories.append(row)
        elif isinstance(row, dict) and is_id(row.get("id")):
            yield row["id"], _length(row.get("width")), _length(row.get("height"))


def _length(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else np.inf


def _category_problems(rows: list[Any]) -> Iterator[str]:
    seen: set[int] = set()
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not is_id(row.get("id")):
            yield f"categories[{position}]: no integer 'id' in [0, 2**63)"
        elif row["id"] in seen:
            yield f"categories[{position}]: duplicate id {row['id']}"
        elif not isinstance(row.get("name"), str):
            yield f"categories[{position}]: no 'name'"
        else:
            seen.add(row["id"])
