"""Reading scenes: from the right folder, and as they were at ingest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orl_ray.config import Config
from orl_ray.scenes.decode import BadImageError, decode
from orl_ray.scenes.reading import (
    annotation_file,
    collection_folder,
    decoded_scenes,
    image_folder,
    read_bytes,
    read_scene,
)
from orl_ray.storage import Store, digest


def user_config(**values):
    return replace(Config(), source=replace(Config().source, kind="coco", **values))


class TestPlaces:
    def test_generated_scenes_lie_inside_the_store_and_move_with_it(self):
        here, there = (collection_folder(Config(), Store(root)) for root in ("/here", "/there"))
        assert here.relative_to("/here") == there.relative_to("/there")
        assert image_folder(Config(), Store("/here")) == here / "images"
        assert annotation_file(Config(), Store("/here")) == here / "instances.json"

    @pytest.mark.parametrize(
        "change",
        [{"seed": 1}, *({"generated": replace(Config().generated, **one)} for one in ({"images": 3}, {"side": 96}))],
    )
    def test_other_scenes_lie_in_another_folder(self, change):
        store = Store("/here")
        assert collection_folder(Config(), store) != collection_folder(replace(Config(), **change), store)

    def test_splits_lie_apart(self):
        assert collection_folder(Config(), Store("/s")) != collection_folder(Config(), Store("/s"), "test")

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_the_users_own_images_lie_where_the_config_says(self, split):
        config = user_config(images="/data/images", annotations="/data/labels.json")
        assert image_folder(config, Store("/s"), split) == Path("/data/images")
        assert annotation_file(config, Store("/s"), split) == Path("/data/labels.json")

    def test_a_source_may_have_no_annotations(self):
        assert annotation_file(user_config(images="/data"), Store("/s")) is None


class TestBytes:
    def test_a_file_is_read_as_it_is(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b.jpg").write_bytes(b"bytes")
        assert read_bytes(tmp_path, "a/b.jpg") == b"bytes"
        assert read_scene(tmp_path, "a/b.jpg", digest(b"bytes")) == b"bytes"

    @pytest.mark.parametrize("path", ["none.jpg", "folder", "file/below.jpg"])
    def test_what_is_no_file_is_a_bad_image(self, tmp_path, path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_bytes(b"x")
        with pytest.raises(BadImageError, match="missing file"):
            read_bytes(tmp_path, path)

    def test_a_file_that_changed_since_ingest_is_a_bad_image(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"new")
        with pytest.raises(BadImageError, match="changed since ingest"):
            read_scene(tmp_path, "a.jpg", digest(b"old"))


class TestDecodedScenes:
    def test_every_image_comes_once_in_the_order_of_the_table(self, finished):
        (scenes, *_), folder = finished.tables("scenes"), image_folder(finished.config, finished.store)
        quarantine = []
        found = list(decoded_scenes(finished.config, finished.store, scenes, quarantine))
        assert quarantine == []
        assert [image_id for image_id, _ in found] == scenes["image_id"].to_pylist()
        for (_, image), row in zip(found, scenes.to_pylist(), strict=True):
            np.testing.assert_array_equal(image, decode((folder / row["path"]).read_bytes(), 10**8))
            assert image.shape == (row["height"], row["width"], 3)

    def test_what_was_lost_or_changed_goes_to_quarantine_and_the_rest_still_comes(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        scenes, folder = small.tables("scenes")[0], image_folder(small.config, small.store)
        lost, changed, *rest = scenes.to_pylist()
        (folder / lost["path"]).unlink()
        (folder / changed["path"]).unlink()
        (folder / changed["path"]).write_bytes((folder / rest[0]["path"]).read_bytes())
        quarantine = []
        found = [image_id for image_id, _ in decoded_scenes(small.config, small.store, scenes, quarantine)]
        assert found == [row["image_id"] for row in rest]
        assert quarantine == [
            (lost["image_id"], lost["path"], "missing file"),
            (changed["image_id"], changed["path"], "changed since ingest"),
        ]
