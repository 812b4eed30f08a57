"""VOC 2007 and COCO, read from exactly the files in which they are published."""

import json
from xml.etree import ElementTree as ET

import numpy as np
import published_layouts
import pytest
from published_layouts import VOC_CLASSES

from orl_ray.evaluation.multilabel_layouts import coco, voc07

LABELS = {
    "trainval": {"000005": {"chair": 1}, "000007": {"car": 1, "person": 0}, "000009": {"horse": 1, "person": 1}},
    "test": {"000001": {"dog": 1, "person": 1}, "000002": {"train": 1}},
}


@pytest.fixture
def voc(tmp_path):
    return published_layouts.voc2007(tmp_path, LABELS)


def test_voc_labels_are_those_of_the_class_files(voc):
    found = voc07(voc, "trainval")
    assert found.classes == VOC_CLASSES
    assert [path.name for path in found.paths] == ["000005.jpg", "000007.jpg", "000009.jpg"]
    for row, (_, labels) in enumerate(LABELS["trainval"].items()):
        for column, name in enumerate(VOC_CLASSES):
            assert found.targets[row, column] == {1: 1, -1: 0, 0: -1}[labels.get(name, -1)]


def test_voc_labels_agree_with_the_annotations_object_by_object(voc):
    for split in LABELS:
        found = voc07(voc, split)
        for path, row in zip(found.paths, found.targets, strict=True):
            said: dict[str, list[bool]] = {}
            annotation = ET.parse(path.parents[1] / f"Annotations/{path.stem}.xml")  # noqa: S314 - written above
            for item in annotation.iter("object"):
                said.setdefault(item.findtext("name"), []).append(item.findtext("difficult") == "1")
            expected = [0 if name not in said else -1 if all(said[name]) else 1 for name in VOC_CLASSES]
            assert row.tolist() == expected


def test_the_content_is_named_by_files_and_labels_and_not_by_the_place(voc, tmp_path):
    again = voc07(published_layouts.voc2007(tmp_path / "again", LABELS), "test")
    assert voc07(voc, "test").content() == again.content()
    other = {**LABELS, "test": {"000001": {"dog": 1, "person": 0}, "000002": {"train": 1}}}
    changed = voc07(published_layouts.voc2007(tmp_path / "other", other), "test")
    assert changed.content()["hash"] != again.content()["hash"]


def test_voc_without_a_class_file_of_an_image_is_refused(voc):
    file = voc / "VOCdevkit/VOC2007/ImageSets/Main/cow_trainval.txt"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    with pytest.raises(ValueError, match="cow"):
        voc07(voc, "trainval")


def test_voc_without_an_image_is_refused_by_its_name(voc):
    (voc / "VOCdevkit/VOC2007/JPEGImages/000007.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images.*000007\.jpg"):
        voc07(voc, "trainval")


def test_a_folder_that_is_not_voc_and_an_unknown_split_are_refused(voc, tmp_path):
    with pytest.raises(ValueError, match=r"no file .*ImageSets/Main/test\.txt"):
        voc07(tmp_path / "elsewhere", "test")
    with pytest.raises(ValueError, match="no split 'tets'"):
        voc07(voc, "tets")


@pytest.mark.real
def test_coco_labels_are_those_of_the_annotations(scenes_root):
    root = scenes_root / "coco_dev"
    found = coco(root / "images", root / "instances_dev.json", root / "splits.json", "test")
    content = json.loads((root / "instances_dev.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    shown = {(files[entry["image_id"]], names[entry["category_id"]]) for entry in content["annotations"]}
    assert found.targets.shape == (139, 80)
    for row, path in enumerate(found.paths):
        assert {found.classes[column] for column in np.flatnonzero(found.targets[row])} == {
            name for file, name in shown if file == path.name
        }


@pytest.mark.real
def test_a_coco_split_that_does_not_exist_is_refused(scenes_root, tmp_path):
    root = scenes_root / "coco_dev"
    with pytest.raises(ValueError, match="no split 'validation'"):
        coco(root / "images", root / "instances_dev.json", root / "splits.json", "validation")
    (tmp_path / "splits.json").write_text('{"test": ["nowhere.jpg"]}')
    with pytest.raises(ValueError, match=r"nowhere\.jpg"):
        coco(root / "images", root / "instances_dev.json", tmp_path / "splits.json", "test")
