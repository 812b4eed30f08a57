"""Image-level labels from COCO files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orl_ray.scenes.labels import read_labels


def coco() -> dict[str, Any]:
    return {
        "images": [{"id": 9, "file_name": "a"}, {"id": 4, "file_name": "b"}, {"id": 6, "file_name": "c"}],
        "categories": [{"id": 30, "name": "cup"}, {"id": 2, "name": "dog"}, {"id": 11, "name": "cat"}],
        "annotations": [
            {"image_id": 9, "category_id": 30},
            {"image_id": 9, "category_id": 30},
            {"image_id": 9, "category_id": 2, "iscrowd": 1},
            {"image_id": 4, "category_id": 11},
        ],
    }


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(data))
    return path


def test_classes_follow_category_ids_and_rows_follow_image_ids(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, coco()))
    assert labels.classes == ("dog", "cat", "cup")
    assert labels.image_ids.dtype == np.int64
    assert labels.image_ids.tolist() == [4, 6, 9]
    assert labels.present.tolist() == [[False, True, False], [False, False, False], [True, False, True]]


def test_labels_do_not_hang_on_the_order_of_the_file(tmp_path: Path) -> None:
    shuffled = {key: rows[::-1] for key, rows in coco().items()}
    first, second = read_labels(write(tmp_path, coco())), read_labels(write(tmp_path, shuffled))
    assert first.classes == second.classes
    np.testing.assert_array_equal(first.present, second.present)


def test_no_images_give_empty_labels(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, {"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}))
    assert labels.present.shape == (0, 1)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_missing_lists_are_named(tmp_path: Path, key: str) -> None:
    data = coco()
    del data[key]
    with pytest.raises(ValueError, match=f"no list '{key}'"):
        read_labels(write(tmp_path, data))


@pytest.mark.parametrize(
    ("key", "row", "problem"),
    [
        ("images", {"id": 9}, r"images\[3\]: duplicate id 9"),
        ("images", {"id": -1}, r"images\[3\]: no integer 'id'"),
        ("categories", {"id": 2, "name": "dog"}, r"categories\[3\]: duplicate id 2"),
        ("categories", {"id": 5}, r"categories\[3\]: no 'name'"),
        ("categories", "dog", r"categories\[3\]: no integer 'id'"),
        ("annotations", {"image_id": 5, "category_id": 2}, r"annotations\[4\]: unknown image_id 5"),
        ("annotations", {"image_id": 9, "category_id": 3}, r"annotations\[4\]: unknown category_id 3"),
        ("annotations", {"image_id": [9], "category_id": 2}, r"annotations\[4\]: unknown image_id \[9\]"),
        ("annotations", 5, r"annotations\[4\]: unknown image_id None"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, key: str, row: object, problem: str) -> None:
    data = coco()
    data[key].append(row)
    with pytest.raises(ValueError, match=problem):
        read_labels(write(tmp_path, data))


@pytest.mark.real
def test_real_labels_agree_with_the_voc_labels_beside_them(scenes_root: Path) -> None:
    """The VOC list beside the photographs was made from the same boxes: twenty classes under VOC's names."""
    root = scenes_root / "coco_dev"
    labels = read_labels(root / "instances_dev.json")
    voc = json.loads((root / "multilabel_voc20.json").read_text())
    names = {row["id"]: row["file_name"] for row in json.loads((root / "instances_dev.json").read_text())["images"]}
    assert len(labels.classes) == 80
    for name in ("dog", "cat", "train", "horse", "boat"):
        column, index = labels.classes.index(name), voc["classes"].index(name)
        ours = {names[int(i)] for i in labels.image_ids[labels.present[:, column]]}
        assert ours == {file for file, indices in voc["labels"].items() if index in indices}
        assert ours
