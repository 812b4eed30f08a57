"""Image lists of COCO JSONs: ids, paths, and rows that cannot be images."""

import json

import pytest

from orl_ray.folders import Folder
from orl_ray.scenes.coco_source import list_coco
from orl_ray.scenes.entries import BadEntry, SourceImage
from orl_ray.scenes.folder_source import list_folder
from orl_ray.scenes.json_file import JsonFile


def listed(folder, rows, prefix="", **more):
    (folder / "images.json").write_text(json.dumps({**more, "images": rows}))
    return list(list_coco(JsonFile.at(str(folder / "images.json")), prefix))


def test_ids_and_paths_come_in_file_order_without_a_look_at_files(tmp_path):
    rows = [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "x/../sub/./a.jpg"}]
    assert listed(tmp_path, rows) == [SourceImage(7, "b.jpg"), SourceImage(3, "sub/a.jpg")]


def test_a_prefix_stands_before_paths_and_does_not_touch_ids(tmp_path):
    assert listed(tmp_path, [{"id": 7, "file_name": "b.jpg"}], "train2017/") == [SourceImage(7, "train2017/b.jpg")]


def test_annotations_may_stand_before_the_images(tmp_path):
    rows = [{"id": 7, "file_name": "b.jpg"}]
    assert listed(tmp_path, rows, annotations=[{"id": 1, "segmentation": [[1.5]]}]) == [SourceImage(7, "b.jpg")]


@pytest.mark.parametrize(
    ("row", "path", "image_id", "reason"),
    [
        ({"id": 2, "file_name": "/etc/x.jpg"}, "/etc/x.jpg", 2, "absolute"),
        ({"id": 2, "file_name": "a/../../x.jpg"}, "a/../../x.jpg", 2, "leaves the source"),
        ({"id": 2, "file_name": ".."}, "..", 2, "leaves the source"),
        ({"id": 2, "file_name": "a\0.jpg"}, "a\0.jpg", 2, "zero byte"),
        ({"id": 2, "file_name": "\ud800.jpg"}, "\\ud800.jpg", 2, "not valid Unicode"),
        ({"id": 2, "file_name": ""}, "images[1]", 2, "no 'file_name'"),
        ({"id": 2, "file_name": 5}, "images[1]", 2, "no 'file_name'"),
        ({"id": 2}, "images[1]", 2, "no 'file_name'"),
        ({"id": "2", "file_name": "x.jpg"}, "x.jpg", None, "no integer 'id'"),
        ({"id": True, "file_name": "x.jpg"}, "x.jpg", None, "no integer 'id'"),
        ({"id": 2**63, "file_name": "x.jpg"}, "x.jpg", None, "no integer 'id'"),
        ({"id": [2], "file_name": "x.jpg"}, "x.jpg", None, "no integer 'id'"),
        ({"file_name": "x.jpg"}, "x.jpg", None, "no integer 'id'"),
        ("x.jpg", "images[1]", None, "no 'file_name'"),
        (None, "images[1]", None, "no 'file_name'"),
    ],
)
def test_a_row_that_cannot_be_an_image_is_a_bad_entry_and_the_rest_is_listed(tmp_path, row, path, image_id, reason):
    before, bad, after = listed(tmp_path, [{"id": 1, "file_name": "a"}, row, {"id": 9, "file_name": "b"}])
    assert (before, after) == (SourceImage(1, "a"), SourceImage(9, "b"))
    assert isinstance(bad, BadEntry)
    assert (bad.path, bad.image_id) == (path, image_id)
    assert reason in bad.reason


@pytest.mark.real
@pytest.mark.parametrize(("name", "file"), [("coco_dev", "instances_dev"), ("coco_pool", "boxes_all")])
def test_real_sets_list_alike_from_folder_and_json(scenes_root, name, file):
    root = scenes_root / name
    from_json = [entry.path for entry in list_coco(JsonFile.at(str(root / f"{file}.json")))]
    assert sorted(from_json) == [entry.path for entry in list_folder(Folder(root / "images"))]
