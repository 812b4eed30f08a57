"""Listing and ingest: which images there are, in which parts, and which of them decode."""

import json

import numpy as np
import pytest
from PIL import Image
from small_store import SmallStore

from orl_ray import schema
from orl_ray.part_runner import WorkerContext
from orl_ray.pipeline import PartPlan
from orl_ray.scenes.listing import list_source, source_identity, write_listing
from orl_ray.scenes.sources import path_id
from orl_ray.scenes.stages import image_identity, ingest_part
from orl_ray.storage import digest


@pytest.fixture
def photographs(tmp_path):
    """Write a folder of six photographs of rising width, one of them in a sub-folder."""
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    for number in range(6):
        path = folder / ("deep" if number == 5 else "") / f"{number}.png"
        Image.fromarray(np.full((20, 30 + number, 3), number * 40, np.uint8)).save(path)
    return folder


def of_folder(tmp_path, photographs, *overrides):
    return SmallStore.new(
        tmp_path / "store", "source.kind=folder", f"source.images={photographs}", "source.part_size=4", *overrides
    )


def coco_files(folder, names):
    """Write a COCO JSON with ids that fall where the names rise, and a split of them."""
    images = [{"id": 100 - i, "file_name": name} for i, name in enumerate(names)]
    annotations, splits = folder / "instances.json", folder / "splits.json"
    annotations.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    splits.write_text(json.dumps({"train": names[:-2], "test": names[-2:]}))
    return annotations, splits


class TestListing:
    def test_the_embedded_splits_share_no_id(self, finished):
        splits = [list_source(finished.config, finished.store, split) for split in ("train", "test")]
        train, test = ([image.image_id for image in images] for images in splits)
        assert (len(train), len(test)) == (20, 8)
        assert train == sorted(train)
        assert not set(train) & set(test)

    def test_a_folder_is_listed_by_the_hash_of_each_path(self, tmp_path, photographs):
        small = of_folder(tmp_path, photographs)
        listed = list_source(small.config, small.store)
        assert {(image.image_id, image.path) for image in listed} == {
            (path_id(path), path) for path in ["deep/5.png", *(f"{i}.png" for i in range(5))]
        }
        assert listed == sorted(listed)

    def test_a_coco_json_is_listed_by_its_ids_and_split(self, tmp_path, photographs):
        annotations, splits = coco_files(tmp_path, [f"{i}.png" for i in range(5)])
        small = SmallStore.new(
            tmp_path / "store",
            "source.kind=coco",
            f"source.images={photographs}",
            f"source.annotations={annotations}",
            f"source.splits={splits}",
        )
        assert [image.image_id for image in list_source(small.config, small.store)] == [98, 99, 100]
        assert [image.path for image in list_source(small.config, small.store, "test")] == ["4.png", "3.png"]

    def test_a_limit_takes_a_draw_of_the_training_split_only(self, tmp_path):
        small = SmallStore.new(tmp_path, "source.limit=5")
        assert len(list_source(small.config, small.store)) == 5
        assert len(list_source(small.config, small.store, "test")) == 8

    def test_a_folder_without_images_says_what_to_name(self, tmp_path, photographs):
        (tmp_path / "empty").mkdir()
        small = of_folder(tmp_path, tmp_path / "empty")
        with pytest.raises(ValueError, match=r"no images found in .*empty: name another folder in source\.images"):
            list_source(small.config, small.store)

    def test_parts_hold_part_size_images_by_rising_id(self, tmp_path, photographs):
        small = of_folder(tmp_path, photographs)
        records = write_listing(small.config, small.store, "key")
        assert [(record.index, record.key, record.rows) for record in records] == [
            (0, "key-000000", 4),
            (1, "key-000001", 2),
        ]
        tables = [small.store.read_table("listing", record.key) for record in records]
        assert all(table.schema == schema.LISTING for table in tables)
        ids = [image_id for table in tables for image_id in table["image_id"].to_pylist()]
        assert ids == sorted(ids)

    def test_listing_again_elsewhere_gives_the_same_content(self, finished, tmp_path):
        again = SmallStore.new(tmp_path / "again")
        again.make("scenes")
        for name in ("listing", "scenes"):
            assert again.plan(name).content_hash == finished.plan(name).content_hash

    def test_a_source_is_what_its_files_hold_and_where_its_images_lie(self, tmp_path, photographs):
        annotations, splits = coco_files(tmp_path, ["0.png", "1.png", "2.png"])
        overrides = ["source.kind=coco", f"source.annotations={annotations}", f"source.splits={splits}"]
        small = of_folder(tmp_path, photographs, *overrides)
        identity = source_identity(small.config)
        assert identity["images"] == str(photographs)
        assert identity["annotations"] == digest(annotations.read_bytes())
        splits.write_text("{}")
        changed = source_identity(small.config)
        assert {name for name in identity if identity[name] != changed[name]} == {"splits"}

    def test_the_place_of_a_folder_does_not_depend_on_how_it_is_written(self, tmp_path, photographs, monkeypatch):
        monkeypatch.chdir(tmp_path)
        relative = of_folder(tmp_path / "a", photographs.name)
        assert image_identity(relative.config) == image_identity(of_folder(tmp_path / "b", photographs).config)


class TestIngest:
    def ingest(self, small, index=0):
        record = write_listing(small.config, small.store, "key")[index]
        context = WorkerContext(small.config, small.store, {"listing": "key"})
        return ingest_part(context, None, PartPlan(index, "out", {"listing": record.key})), context

    def written(self, output, context):
        context.store.write_part("scenes", "out", 0, output.files, rows=output.rows)
        return context.store.read_table("scenes", "out")

    def test_every_row_says_size_hash_and_part(self, tmp_path, photographs):
        output, context = self.ingest(of_folder(tmp_path, photographs), index=1)
        table = self.written(output, context)
        assert table.schema == schema.SCENES
        assert output.rows == len(table) == 2
        for row in table.to_pylist():
            assert (row["width"], row["height"]) == (30 + int(row["path"][-5]), 20)
            assert row["content_hash"] == digest((photographs / row["path"]).read_bytes())
            assert row["part"] == 1

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda path: path.write_bytes(b""), "zero bytes"),
            (lambda path: path.write_bytes(b"no image"), ""),
            (lambda path: path.write_bytes(path.read_bytes()[:-30]), ""),
            (lambda path: (path.unlink(), path.mkdir()), "missing file"),
        ],
        ids=["empty", "foreign", "cut", "folder"],
    )
    def test_an_image_that_does_not_decode_is_left_out_with_a_reason(self, tmp_path, photographs, damage, reason):
        annotations, _ = coco_files(tmp_path, [f"{i}.png" for i in range(4)])
        small = of_folder(tmp_path, photographs, "source.kind=coco", f"source.annotations={annotations}")
        damage(photographs / "2.png")
        output, context = self.ingest(small)
        ((image_id, path, told),) = output.quarantine
        assert (image_id, path) == (98, "2.png")
        assert told
        assert reason in told
        assert self.written(output, context)["image_id"].to_pylist() == [97, 99, 100]

    def test_a_listed_file_that_is_gone_is_left_out(self, tmp_path, photographs):
        annotations, _ = coco_files(tmp_path, ["0.png", "gone.png", "1.png"])
        small = of_folder(tmp_path, photographs, "source.kind=coco", f"source.annotations={annotations}", "mining.k=2")
        output, _ = self.ingest(small)
        assert output.quarantine == [(99, "gone.png", "missing file")]

    def test_an_image_above_the_pixel_limit_is_left_out(self, tmp_path, photographs):
        small = of_folder(tmp_path, photographs, "source.max_pixels=640", "source.part_size=10")
        output, _ = self.ingest(small)
        assert {path for _, path, _ in output.quarantine} == {"3.png", "4.png", "deep/5.png"}  # 2.png has 640 pixels
        assert all("limit" in reason for _, _, reason in output.quarantine)

    def test_a_part_of_which_nothing_decodes_is_empty(self, tmp_path, photographs):
        small = of_folder(tmp_path, photographs, "source.max_pixels=1")
        output, context = self.ingest(small)
        assert (output.rows, len(output.quarantine)) == (0, 4)
        table = self.written(output, context)
        assert (len(table), table.schema) == (0, schema.SCENES)
