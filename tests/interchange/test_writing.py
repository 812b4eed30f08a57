"""Exports: equal to what plain Python builds from the store's rows, in the order that is asked for, or refused."""

import io
import json
from types import SimpleNamespace

import pytest
from reference_files import correspondences, images, listed_ids, neighbors, proposals, write

from orl_ray.interchange.columns_file import RowsFile, compact, published, write_json
from orl_ray.interchange.writing import Target, export_correspondences, export_neighbors, export_proposals
from orl_ray.pretraining.export import export_training_set
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.progress import Console, StageProgress
from orl_ray.scenes.json_file import JsonFile

KINDS = ("proposals", "neighbors", "correspondences")


def export(small, kind, path, orders=(), *, aligned=False):
    progress = StageProgress(Console(io.StringIO()), "export", 0, "images")
    target = Target(JsonFile.at(str(path)), orders, aligned, progress)
    scenes, records = small.records("scenes"), small.records(kind)
    if kind == "proposals":
        return export_proposals(small.store, scenes, records, target)
    if kind == "neighbors":
        return export_neighbors(small.store, scenes, records, target, small.config.mining.k)
    return export_correspondences(small.config, small.store, scenes, small.records("rois"), records, target)


def expected(small, kind, ids):
    if kind == "proposals":
        return {"images": images(small, ids), **proposals(small, ids)}
    if kind == "neighbors":
        return neighbors(small, ids, small.config.mining.k)
    return correspondences(small, ids, small.config.mining.k, small.config.mining.pair_ratio)


def order(folder, ids, name="order.json"):
    return write(folder / name, {"images": [{"id": i, "file_name": "a.jpg"} for i in ids]})


@pytest.fixture
def source_order(coco):
    return [JsonFile.at(coco.config.source.annotations)]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_stands_in_the_order_of_the_coco_json(self, coco, tmp_path, kind, source_order):
        exported = export(coco, kind, tmp_path / "out.json", source_order)
        assert json.loads((tmp_path / "out.json").read_text()) == expected(coco, kind, listed_ids(coco))
        assert (exported.images, exported.left_out) == (19, 1)

    def test_without_a_coco_json_stands_by_part_then_by_id(self, coco, tmp_path, kind):
        export(coco, kind, tmp_path / "out.json")
        by_part = [row["image_id"] for row in coco.rows("scenes")]
        assert by_part != sorted(by_part)
        assert by_part != listed_ids(coco)
        assert json.loads((tmp_path / "out.json").read_text()) == expected(coco, kind, by_part)

    def test_takes_any_order_that_lists_the_same_images(self, coco, tmp_path, kind):
        turned = listed_ids(coco)[::-1]
        halves = [order(tmp_path, turned[:8], "a.json"), order(tmp_path, turned[8:], "b.json")]
        exported = export(coco, kind, tmp_path / "out.json", halves, aligned=True)
        assert json.loads((tmp_path / "out.json").read_text()) == expected(coco, kind, turned)
        assert exported.left_out == 0

    def test_that_must_align_is_refused_where_the_store_lacks_an_image(self, coco, tmp_path, kind, source_order):
        (broken,) = {image_id for image_id, _ in coco.quarantined("packed_scenes")}
        with pytest.raises(ValueError, match=rf"1 of 20 images of .* are not in the store, such as {broken}:"):
            export(coco, kind, tmp_path / "out.json", source_order, aligned=True)
        assert list(tmp_path.iterdir()) == []

    def test_is_refused_where_the_coco_json_lacks_an_image(self, coco, tmp_path, kind):
        ids = listed_ids(coco)
        with pytest.raises(ValueError, match=r"2 images of the store are not in .*order.json, such as "):
            export(coco, kind, tmp_path / "out.json", [order(tmp_path, ids[2:])])

    def test_that_must_align_is_refused_where_an_image_stands_twice(self, coco, tmp_path, kind):
        ids = listed_ids(coco)
        twice = [order(tmp_path, [*ids, ids[0]])]
        with pytest.raises(ValueError, match="1 images stand there twice"):
            export(coco, kind, tmp_path / "out.json", twice, aligned=True)
        export(coco, kind, tmp_path / "out.json", twice)
        assert json.loads((tmp_path / "out.json").read_text()) == expected(coco, kind, ids)


class TestSelection:
    @pytest.mark.parametrize(("k", "ratio"), [(1, 0.0), (2, 0.29), (6, 0.6)])
    def test_k_and_ratio_are_prefixes_of_what_was_mined(self, coco, tmp_path, k, ratio):
        small = coco.with_settings(mining={"k": k, "pair_ratio": ratio})
        for kind in ("neighbors", "correspondences"):
            export(small, kind, tmp_path / kind)
            by_part = [row["image_id"] for row in coco.rows("scenes")]
            assert json.loads((tmp_path / kind).read_text()) == expected(small, kind, by_part)

    def test_correspondences_are_what_a_training_reads(self, coco, tmp_path):
        export(coco, "correspondences", tmp_path / "out.json")
        names = ("scenes", "rois", "correspondences")
        export_training_set(coco.config, coco.store, {name: coco.plan(name).key for name in names}, tmp_path / "set")
        content, found = json.loads((tmp_path / "out.json").read_text()), TrainingSet.open(tmp_path / "set")
        ids, rows = content["images"]["id"], content["pseudo_annotations"]
        assert ids == found.image_ids.tolist()
        for position in range(len(ids)):
            assert rows["bbox"][position] == found.rois(position).tolist()
            pairs = zip(rows["knn_image_id"][position], rows["knn_bbox_pair"][position], strict=True)
            assert [(ids[at], boxes) for at, boxes in pairs] == [
                (row.neighbor_id, [[*a, *b] for a, b in zip(row.query_boxes, row.neighbor_boxes, strict=True)])
                for row in found.rows(position)
            ]

    def test_images_with_too_few_neighbours_are_counted(self, coco, tmp_path):
        many = coco.with_settings(mining={"k": 7, "k_max": 7})
        target = Target(
            JsonFile.at(str(tmp_path / "out.json")), (), False, StageProgress(Console(io.StringIO()), "", 0, "")
        )
        assert export_neighbors(coco.store, coco.records("scenes"), coco.records("neighbors"), target, 6).short == 0
        assert export_neighbors(many.store, coco.records("scenes"), coco.records("neighbors"), target, 7).short == 19


class TestFiles:
    def test_a_failed_export_leaves_the_old_file_and_nothing_else(self, coco, tmp_path):
        (tmp_path / "out.json").write_text("old")

        def fail():
            with published(JsonFile.at(str(tmp_path / "out.json"))) as (_, result):
                result.write_text("half")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.json", "old")]

    def test_a_finished_one_takes_its_place(self, tmp_path):
        (tmp_path / "out.json").write_text("old")
        with published(JsonFile.at(str(tmp_path / "out.json"))) as (rows, result):
            rows.write_text("aside")
            result.write_text("new")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.json", "new")]

    def test_a_folder_that_is_not_there_is_made(self, coco, tmp_path):
        export(coco, "neighbors", tmp_path / "a" / "b" / "out.json")
        assert (tmp_path / "a" / "b" / "out.json").is_file()

    def test_a_bucket_gets_the_whole_file_at_once(self):
        written = {}
        bucket = SimpleNamespace(is_local=False, write=lambda name, data: written.update({name: bytes(data)}))
        with published(JsonFile(bucket, "out.json")) as (_, result):
            result.write_bytes(b"content")
            assert not written
        assert written == {"out.json": b"content"}


class TestRowsFile:
    def test_columns_come_by_position_whatever_order_rows_came_in(self, tmp_path):
        with (tmp_path / "rows").open("w+b") as stream:
            file = RowsFile(stream, 3)
            for position in (2, 0, 1):
                file.add(position, [f"name\n{position}", [position, [position]]])
            assert [json.loads(value) for value in file.column(1)] == [[n, [n]] for n in range(3)]
            assert [json.loads(value) for value in file.column(0)] == [f"name\n{n}" for n in range(3)]

    def test_a_missing_row_is_told(self, tmp_path):
        with (tmp_path / "rows").open("w+b") as stream:
            file = RowsFile(stream, 2)
            file.add(0, [1])
            with pytest.raises(ValueError, match="row 1 of 2 is missing"):
                list(file.column(0))

    def test_json_with_empty_lists_and_objects_is_json(self):
        out = io.BytesIO()
        write_json(out, {"a": [], "n": {}, "b": {"c": iter([b"1", b"[2]"]), "d": compact({"x": None})}, 'é"': b"true"})
        assert json.loads(out.getvalue()) == {"a": [], "n": {}, "b": {"c": [1, [2]], "d": {"x": None}}, 'é"': True}
