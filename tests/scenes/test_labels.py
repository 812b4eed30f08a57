"""Image-level labels from COCO files."""

import json
import random

import numpy as np
import pytest
from scene_sources import config_of

from orl_ray.scenes import labels as labels_module
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.labels import labelled_files, read_labels
from orl_ray.storage import Store


def coco(**more):
    return {
        "images": [{"id": 9, "file_name": "a"}, {"id": 4, "file_name": "b"}, {"id": 6, "file_name": "c"}],
        "categories": [{"id": 30, "name": "cup"}, {"id": 2, "name": "dog"}, {"id": 11, "name": "cat"}],
        "annotations": [
            {"image_id": 9, "category_id": 30},
            {"image_id": 9, "category_id": 30},
            {"image_id": 9, "category_id": 2, "iscrowd": 1},
            {"image_id": 4, "category_id": 11},
        ],
        **more,
    }


def write(folder, data, name="instances.json"):
    (folder / name).write_text(json.dumps(data))
    return JsonFile.at(str(folder / name))


def labels_of(folder, data):
    return read_labels([write(folder, data)])


def shown(labels):
    """Return image id -> names of the classes that it shows."""
    table = labels.present(labels.image_ids)
    return {
        int(i): {labels.classes[at] for at in np.flatnonzero(row)}
        for i, row in zip(labels.image_ids, table, strict=True)
    }


def test_classes_follow_category_ids_and_rows_follow_image_ids(tmp_path):
    labels = labels_of(tmp_path, coco())
    assert labels.classes == ("dog", "cat", "cup")
    assert labels.image_ids.dtype == np.int64
    assert labels.image_ids.tolist() == [4, 6, 9]
    ids = np.array([6, 9, 4], np.int64)
    assert labels.present(ids).tolist() == [[False, False, False], [True, False, True], [False, True, False]]


@pytest.mark.parametrize("batch", [1, 2, 65_536])
def test_labels_do_not_hang_on_the_order_of_the_file_nor_on_batches(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(labels_module, "_BATCH", batch)
    reversed_lists = {key: rows[::-1] for key, rows in reversed(coco().items())}
    assert shown(labels_of(tmp_path, reversed_lists)) == {4: {"cat"}, 6: set(), 9: {"dog", "cup"}}


@pytest.mark.parametrize("classes", [1, 7, 8, 9, 17])
def test_any_number_of_classes_fits_the_bits(tmp_path, classes):
    random.seed(classes)
    pairs = {(random.randrange(20), random.randrange(classes)) for _ in range(40)}
    labels = labels_of(
        tmp_path,
        {
            "images": [{"id": i} for i in range(20)],
            "categories": [{"id": c, "name": f"c{c}"} for c in range(classes)],
            "annotations": [{"image_id": i, "category_id": c} for i, c in pairs],
        },
    )
    assert {(i, int(name[1:])) for i, names in shown(labels).items() for name in names} == pairs
    assert labels.bits.nbytes == 20 * -(-classes // 8)


def test_several_files_are_one_set_and_the_first_of_an_id_counts(tmp_path):
    first = coco(images=[{"id": 9, "width": 10, "height": 10}, {"id": 4}])
    box = {"image_id": 9, "category_id": 30, "bbox": [0, 0, 50, 50]}  # inside the second image 9, outside the first
    second = coco(images=[{"id": 9, "width": 99, "height": 99}, {"id": 5}], annotations=[box])
    labels = read_labels([write(tmp_path, first, "a.json"), write(tmp_path, second, "b.json")])
    assert labels.image_ids.tolist() == [4, 5, 9]
    assert labels.odd["boxes that reach outside their image"] == 1


def test_categories_that_differ_between_files_are_refused(tmp_path):
    other = write(tmp_path, coco(categories=[{"id": 30, "name": "mug"}], annotations=[]), "b.json")
    with pytest.raises(ValueError, match=r"categories of .*b\.json and of .*instances\.json differ"):
        read_labels([write(tmp_path, coco()), other])


def test_no_images_give_empty_labels(tmp_path):
    labels = labels_of(tmp_path, {"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]})
    assert labels.present(np.empty(0, np.int64)).shape == (0, 1)
    assert not labels.known(np.array([3])).any()


def test_images_without_annotations_are_known_and_others_are_not(tmp_path):
    labels = labels_of(tmp_path, coco())
    assert labels.known(np.array([5, 6, 9, 10])).tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match="1 images have no entry in the annotations, such as image 5"):
        labels.present(np.array([5, 6]))


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_missing_lists_are_named(tmp_path, key):
    data = coco()
    del data[key]
    with pytest.raises(ValueError, match=f"no list '{key}'"):
        labels_of(tmp_path, data)


@pytest.mark.parametrize(
    ("key", "row", "problem"),
    [
        ("categories", {"id": 2, "name": "dog"}, r"categories\[3\]: duplicate id 2"),
        ("categories", {"id": 5}, r"categories\[3\]: no 'name'"),
        ("categories", "dog", r"categories\[3\]: no integer 'id'"),
        ("annotations", {"image_id": 9, "category_id": 3}, r"annotations\[4\]: unknown category_id 3"),
        ("annotations", {"image_id": 9, "category_id": "3"}, r"annotations\[4\]: unknown category_id '3'"),
        ("annotations", {"image_id": 9}, r"annotations\[4\]: unknown category_id None"),
    ],
)
@pytest.mark.parametrize("batch", [3, 65_536])
def test_bad_rows_are_named(tmp_path, monkeypatch, key, row, problem, batch):
    monkeypatch.setattr(labels_module, "_BATCH", batch)
    data = coco()
    data[key].append(row)
    with pytest.raises(ValueError, match=problem):
        labels_of(tmp_path, data)


@pytest.mark.parametrize("row", [{"id": 9}, {"id": -1}, {"file_name": "x"}, 5])
def test_images_that_the_listing_refuses_change_no_label(tmp_path, row):
    assert shown(labels_of(tmp_path, coco(images=[*coco()["images"], row]))) == shown(labels_of(tmp_path, coco()))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"image_id": 5, "category_id": 2}, "annotations of images that are not listed"),
        ({"image_id": [9], "category_id": 2}, "annotations of images that are not listed"),
        (5, "annotations of images that are not listed"),
        ({"image_id": 4, "category_id": 11, "bbox": [90, 0, 20, 5]}, "boxes that reach outside their image"),
        ({"image_id": 4, "category_id": 11, "bbox": [-2, 0, 5, 5]}, "boxes that reach outside their image"),
        ({"image_id": 4, "category_id": 11, "bbox": [5, 5, 0, 5]}, "empty boxes"),
        ({"image_id": 4, "category_id": 11, "bbox": [-1, 0, 102, 50]}, ""),  # rounded: within a pixel
        ({"image_id": 4, "category_id": 11, "bbox": "none"}, ""),
        ({"image_id": 9, "category_id": 30, "bbox": [0, 0, 1e6, 1e6]}, ""),  # the size of image 9 is not said
    ],
)
def test_what_is_odd_is_counted_and_changes_no_label(tmp_path, row, what):
    data = coco(images=[{"id": 9}, {"id": 4, "width": 100, "height": 50}, {"id": 6}])
    data["annotations"].append(row)
    labels = labels_of(tmp_path, data)
    assert {name for name, count in labels.odd.items() if count} == ({what} if what else set())
    assert shown(labels) == {4: {"cat"}, 6: set(), 9: {"dog", "cup"}}


def test_annotations_of_other_images_altogether_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no annotation is of an image that is listed"):
        labels_of(tmp_path, coco(images=[{"id": 1}]))


def test_files_that_list_no_annotation_are_left_out(tmp_path):
    files = {"train": coco(), "empty": coco(annotations=[]), "images": {"images": []}}
    for name, data in files.items():
        write(tmp_path, data, f"{name}.json")
        (tmp_path / name).mkdir()
    config = config_of(
        kind="coco",
        images=",".join(f"{tmp_path}/{name}" for name in files),
        annotations=",".join(f"{tmp_path}/{name}.json" for name in files),
    )
    assert [file.name for file in labelled_files(config, Store("/s"))] == ["train.json"]


@pytest.mark.real
def test_real_labels_agree_with_the_voc_labels_beside_them(scenes_root):
    """The VOC list beside the photographs was made from the same boxes: twenty classes under VOC's names."""
    root = scenes_root / "coco_dev"
    labels = read_labels([JsonFile.at(str(root / "instances_dev.json"))])
    voc = json.loads((root / "multilabel_voc20.json").read_text())
    names = {row["id"]: row["file_name"] for row in json.loads((root / "instances_dev.json").read_text())["images"]}
    assert len(labels.classes) == 80
    present = labels.present(labels.image_ids)
    for name in ("dog", "cat", "train", "horse", "boat"):
        column, index = labels.classes.index(name), voc["classes"].index(name)
        ours = {names[int(i)] for i in labels.image_ids[present[:, column]]}
        assert ours == {file for file, indices in voc["labels"].items() if index in indices}
        assert ours
