"""Sources of every kind: their folders, the order of their entries, splits, and what identifies them."""

import json
from dataclasses import replace

import pytest

from orl_ray.config import Config, Source
from orl_ray.folders import Folder
from orl_ray.scenes.entries import BadEntry, SourceImage, path_id
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.sources import (
    entries,
    image_identity,
    list_source,
    raise_problems,
    restrict,
    source_folders,
    source_identity,
)
from orl_ray.storage import Store, digest


def of(**source):
    return replace(Config(), source=Source(**source))


def coco(path, names, first_id=1, **more):
    images = [{"id": first_id + number, "file_name": name} for number, name in enumerate(names)]
    path.write_text(json.dumps({**more, "images": images}))
    return path


@pytest.fixture
def coco_plus(tmp_path):
    """Write train2017 and unlabeled2017, whose names and ids fall where the order rises."""
    for name in ("train2017", "unlabeled2017"):
        (tmp_path / name).mkdir()
    train = coco(tmp_path / "train.json", ["b.jpg", "a.jpg"], 50)
    more = coco(tmp_path / "unlabeled.json", ["d.jpg", "a.jpg"], 10)
    images = f"{tmp_path}/train2017, {tmp_path}/unlabeled2017/"
    return of(kind="coco", images=images, annotations=f"{train},{more}")


class TestFolders:
    def test_the_only_folder_has_no_prefix(self, tmp_path):
        (folder,) = source_folders(of(kind="folder", images=str(tmp_path)), Store("/s"))
        assert (folder.images, folder.prefix, folder.annotations) == (Folder(tmp_path), "", None)

    def test_several_have_their_last_names_as_prefix(self, coco_plus, tmp_path):
        folders = source_folders(coco_plus, Store("/s"))
        assert [folder.prefix for folder in folders] == ["train2017/", "unlabeled2017/"]
        assert [str(folder.annotations) for folder in folders] == [
            f"{tmp_path}/train.json",
            f"{tmp_path}/unlabeled.json",
        ]

    def test_folders_of_one_name_are_refused(self):
        with pytest.raises(ValueError, match="last names of several folders must differ"):
            source_folders(of(kind="folder", images="s3://a/x,gs://b/x"), Store("/s"))

    def test_generated_scenes_lie_in_the_store_wherever_it_is(self):
        (here,), (there,) = (source_folders(Config(), Store(root)) for root in ("/here", "s3://bucket/there"))
        assert here.images.uri.startswith("/here/generated/train-")
        assert there.images.uri == here.images.uri.replace("/here", "s3://bucket/there")
        assert str(here.annotations) == here.images.uri.removesuffix("images") + "instances.json"

    @pytest.mark.parametrize("change", [{"seed": 1}, {"generated": replace(Config().generated, side=96)}])
    def test_other_scenes_lie_elsewhere(self, change):
        assert source_folders(Config(), Store("/s")) != source_folders(replace(Config(), **change), Store("/s"))

    def test_the_splits_lie_apart(self):
        assert source_folders(Config(), Store("/s")) != source_folders(Config(), Store("/s"), "test")


class TestEntries:
    def test_coco_plus_lists_the_first_json_then_the_second_each_in_file_order(self, coco_plus):
        assert list(entries(coco_plus, Store("/s"))) == [
            SourceImage(50, "train2017/b.jpg"),
            SourceImage(51, "train2017/a.jpg"),
            SourceImage(10, "unlabeled2017/d.jpg"),
            SourceImage(11, "unlabeled2017/a.jpg"),
        ]

    def test_several_plain_folders_follow_each_other_and_same_names_in_them_have_other_ids(self, tmp_path):
        for name in ("z/a.jpg", "y/a.jpg"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_bytes(b"x")
        listed = list(entries(of(kind="folder", images=f"{tmp_path}/z,{tmp_path}/y"), Store("/s")))
        assert [(entry.path, entry.image_id) for entry in listed] == [
            ("z/a.jpg", path_id("z/a.jpg")),
            ("y/a.jpg", path_id("y/a.jpg")),
        ]

    def test_generated_splits_are_rendered_and_share_no_id(self, tmp_path):
        config = replace(Config(), generated=replace(Config().generated, images=3, test_images=2, side=64))
        assert [entry.image_id for entry in entries(config, Store(tmp_path))] == [0, 1, 2]
        assert [entry.image_id for entry in entries(config, Store(tmp_path), "test")] == [3, 4]

    def test_an_image_folder_that_is_not_there_is_told(self, tmp_path):
        config = of(kind="coco", images=f"{tmp_path}/none", annotations=str(coco(tmp_path / "a.json", [])))
        with pytest.raises(ValueError, match="no image folder at"):
            list(entries(config, Store("/s")))

    def test_splits_name_paths_as_they_are_listed(self, coco_plus, tmp_path):
        (tmp_path / "splits.json").write_text(
            json.dumps({"train": ["unlabeled2017/a.jpg", "train2017/a.jpg"], "test": ["train2017/b.jpg"]})
        )
        config = replace(coco_plus, source=replace(coco_plus.source, splits=str(tmp_path / "splits.json")))
        assert [entry.image_id for entry in entries(config, Store("/s"))] == [51, 11]
        assert [image.image_id for image in list_source(config, Store("/s"), "test")] == [50]


def test_a_small_split_is_listed_by_id_without_bad_entries_and_with_the_first_of_duplicates(tmp_path):
    file = tmp_path / "a.json"
    rows = [{"id": 9, "file_name": "z"}, {"id": 3, "file_name": "a"}, {"id": 9, "file_name": "b"}, {"id": 4}]
    file.write_text(json.dumps({"images": rows}))
    config = of(kind="coco", images=str(tmp_path), annotations=str(file))
    assert list_source(config, Store("/s"), "test") == [SourceImage(3, "a"), SourceImage(9, "z")]


class TestSplits:
    def splits(self, folder, content):
        (folder / "splits.json").write_text(content)
        return JsonFile.at(str(folder / "splits.json"))

    def test_a_split_keeps_its_entries_good_and_bad_in_source_order(self, tmp_path):
        found = [SourceImage(i, f"{name}.jpg") for i, name in enumerate("dbca")] + [BadEntry("e.jpg", "bad")]
        splits = self.splits(tmp_path, json.dumps({"train": ["a.jpg", "b.jpg", "e.jpg"], "test": ["c.jpg"]}))
        kept = [entry.path for entry in restrict(iter(found), splits, "train")]
        assert kept == ["b.jpg", "a.jpg", "e.jpg"]

    def test_an_unknown_split_and_images_that_are_not_there_are_told(self, tmp_path):
        splits = self.splits(tmp_path, json.dumps({"train": ["a.jpg", "b.jpg"], "test": []}))
        with pytest.raises(ValueError, match=r"no split 'val' in .*'train', 'test'"):
            restrict([], splits, "val")
        with pytest.raises(ValueError, match=r"not in the source:\n  b.jpg"):
            list(restrict([SourceImage(1, "a.jpg")], splits, "train"))

    @pytest.mark.parametrize("content", ["[]", '{"train": "a.jpg"}', '{"train": [1]}', "{"])
    def test_a_file_that_holds_no_splits_is_refused(self, tmp_path, content):
        with pytest.raises(ValueError, match="split"):
            restrict([], self.splits(tmp_path, content), "train")


class TestIdentity:
    def test_a_source_is_where_it_lies_and_what_its_splits_are(self, coco_plus, tmp_path):
        (tmp_path / "splits.json").write_text("{}")
        config = replace(coco_plus, source=replace(coco_plus.source, splits=str(tmp_path / "splits.json")))
        before = source_identity(config)
        assert before == {
            "images": f"{tmp_path}/train2017, {tmp_path}/unlabeled2017",
            "annotations": f"{tmp_path}/train.json, {tmp_path}/unlabeled.json",
            "splits": digest(b"{}"),
        }
        coco(tmp_path / "train.json", ["new.jpg"])  # frozen: a rescan finds it
        assert source_identity(config) == before
        (tmp_path / "splits.json").write_text("[]")
        assert source_identity(config)["splits"] != before["splits"]

    def test_the_place_of_a_folder_does_not_depend_on_how_it_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        relative, absolute = (of(kind="folder", images=images) for images in ("photos", f"{tmp_path}/photos/"))
        assert image_identity(relative) == image_identity(absolute) == {"images": f"{tmp_path}/photos"}

    def test_generated_scenes_are_what_they_are_drawn_from(self):
        assert image_identity(Config()) == {"seed": 0, "side": Config().generated.side}

    def test_of_parquet_files_the_column_is_part_of_what_the_images_are(self):
        rows = [image_identity(of(kind="parquet", images="/data", image_column=name)) for name in ("rgb", "mask")]
        assert rows[0] != rows[1]
        assert source_identity(Config()) == {}


def test_ten_problems_are_named_and_the_rest_counted():
    raise_problems("fine", [])
    with pytest.raises(ValueError, match="and 3 more") as caught:
        raise_problems("title", [f"problem {number}" for number in range(13)])
    assert str(caught.value).count("problem") == 10
