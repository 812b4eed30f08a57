"""Image-level labels from a COCO JSON, for evaluation only: which classes an image shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.sources import is_id, load_coco, raise_problems


@dataclass(frozen=True, slots=True)
class Labels:
    """Which of C classes each of n images shows.

    Attributes:
        image_ids: (n,) int64, ascending.
        classes: C class names, in the order of their category ids.
        present: (n, C) bool.
    """

    image_ids: NDArray[np.int64]
    classes: tuple[str, ...]
    present: NDArray[np.bool_]


def has_labels(annotations: str | Path) -> bool:
    """Tell whether a COCO JSON lists any annotation: those of unlabelled images do not.

    Raises:
        ValueError: the file is no COCO JSON.
    """
    return bool(load_coco(annotations, ("images",)).get("annotations"))


def read_labels(annotations: str | Path) -> Labels:
    """Read which classes each image shows: a class is present where it has at least one annotation, crowds included.

    Args:
        annotations: a COCO JSON with images, annotations and categories. Images without annotations show no class.

    Raises:
        ValueError: the JSON is no COCO JSON, ids are bad or double, or annotations name unknown images or categories.
            Up to ten problems
            are listed at once.
    """
    data = load_coco(annotations, ("images", "annotations", "categories"))
    problems = [*_id_problems(data["images"], "images"), *_id_problems(data["categories"], "categories")]
    problems += [
        f"categories[{position}]: no 'name'"
        for position, row in enumerate(data["categories"])
        if not isinstance(row, dict) or not isinstance(row.get("name"), str)
    ]
    raise_problems(f"bad labels in {annotations}", problems)
    categories = sorted(data["categories"], key=lambda row: row["id"])
    image_ids = np.array(sorted(row["id"] for row in data["images"]), np.int64)
    rows, columns = _pairs(data["annotations"], image_ids, [row["id"] for row in categories], str(annotations))
    present = np.zeros((len(image_ids), len(categories)), bool)
    present[rows, columns] = True
    return Labels(image_ids, tuple(row["name"] for row in categories), present)


def _id_problems(rows: list[Any], name: str) -> list[str]:
    problems, seen = [], set()
    for position, row in enumerate(rows):
        if not isinstance(row, dict) or not is_id(row.get("id")):
            problems.append(f"{name}[{position}]: no integer 'id' in [0, 2**63)")
        elif row["id"] in seen:
            problems.append(f"{name}[{position}]: duplicate id {row['id']}")
        else:
            seen.add(row["id"])
    return problems


def _pairs(
    annotations: list[Any], image_ids: NDArray[np.int64], category_ids: list[int], where: str
) -> tuple[list[int], list[int]]:
    """Return the row and the column of each annotation's cell in the table of images and classes."""
    row_of = {int(image_id): row for row, image_id in enumerate(image_ids)}
    column_of = {category_id: column for column, category_id in enumerate(category_ids)}
    rows, columns, problems = [], [], []
    for position, annotation in enumerate(annotations):
        fields = annotation if isinstance(annotation, dict) else {}
        image_id, category_id = fields.get("image_id"), fields.get("category_id")
        if not is_id(image_id) or image_id not in row_of:
            problems.append(f"annotations[{position}]: unknown image_id {image_id!r}")
        elif not is_id(category_id) or category_id not in column_of:
            problems.append(f"annotations[{position}]: unknown category_id {category_id!r}")
        else:
            rows.append(row_of[image_id])
            columns.append(column_of[category_id])
    raise_problems(f"bad labels in {where}", problems)
    return rows, columns
