"""The commands: what they print, what they refuse with exit code 2, and that nothing is lost on the way."""

import json
import random
from pathlib import Path

import pytest
from reference_files import correspondences, listed_ids, neighbors, proposals, write
from small_store import SmallStore

from orl_ray.config import flatten
from orl_ray.graph import main_job
from orl_ray.housekeeping.garbage import find_garbage
from orl_ray.interchange.commands import export_command, import_command

KINDS = ("proposals", "neighbors", "correspondences")


@pytest.fixture
def small(coco, tmp_path):
    return coco.copy(tmp_path / "copy")


def settings(small):
    return [f"{name}={value}" for name, value in flatten(small.config).items()]


@pytest.fixture
def refused(capsys):
    """Return a function that runs a command which must fail, and returns its message."""

    def run(command, *arguments):
        assert command([str(argument) for argument in arguments]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        return told.err

    return run


def imported_boxes(small, told, tmp_path):
    """Return the boxes of the import that a command told of, image by image in the source's order."""
    freeze = next(line for line in told.splitlines() if "--until rois freeze=" in line).split()[-1]
    assert export_command(["proposals", str(tmp_path / "again.json"), *settings(small), freeze]) == 0
    return json.loads((tmp_path / "again.json").read_text())["bbox"]


def own_boxes(small):
    boxes = {row["image_id"]: row["boxes"] for row in small.rows("proposals")}
    return [boxes[image_id] for image_id in listed_ids(small)]


class TestRoundTrip:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_exported_and_imported_exports_the_same(self, small, tmp_path, capsys, kind):
        first, second = tmp_path / "first.json", tmp_path / "second.json"
        assert export_command([kind, str(first), *settings(small)]) == 0
        assert import_command([kind, str(first), *settings(small)]) == 0
        freeze = next(line for line in capsys.readouterr().out.splitlines() if "freeze=" in line).split()[-1]
        assert export_command([kind, str(second), *settings(small), freeze]) == 0
        written = json.loads(first.read_text()), json.loads(second.read_text())
        if kind == "correspondences":  # a reference's file has no name for a share of the image's side
            assert written[0]["info"].pop("bbox_min_share") == 0.2
        assert written[0] == written[1]

    def test_a_folder_without_a_coco_json_goes_round_by_its_own_list(self, finished, coco, tmp_path, capsys):
        folder = SmallStore.new(tmp_path / "store", "source.kind=folder", f"source.images={coco.config.source.images}")
        folder.make("rois")
        out = tmp_path / "out.json"
        assert export_command(["proposals", str(out), *settings(folder)]) == 0
        assert import_command(["proposals", str(out), *settings(folder)]) == 0
        assert imported_boxes(folder, capsys.readouterr().out, tmp_path) == json.loads(out.read_text())["bbox"]


class TestImport:
    def test_takes_the_order_of_the_sources_coco_json(self, small, tmp_path, capsys):
        ids = listed_ids(small)
        annotations = json.loads(Path(small.config.source.annotations).read_text())["images"]
        boxes = dict(zip(ids, proposals(small, ids)["bbox"], strict=True))
        file = write(tmp_path / "p.json", {"bbox": [boxes.get(image["id"], [[0, 0, 1, 1]]) for image in annotations]})
        assert import_command(["proposals", str(file), *settings(small)]) == 0
        told = capsys.readouterr().out
        assert told.startswith("19 images imported\n1 images of the files that the scenes lack, left out\n")
        assert imported_boxes(small, told, tmp_path) == own_boxes(small)

    def test_takes_another_order_if_it_is_named(self, small, tmp_path, capsys):
        ids = random.Random(5).sample(listed_ids(small), 19)
        file = write(tmp_path / "p.json", proposals(small, ids))
        order = write(tmp_path / "order.json", {"images": [{"id": i} for i in ids]})
        assert import_command(["proposals", str(file), "--order", str(order), *settings(small)]) == 0
        assert imported_boxes(small, capsys.readouterr().out, tmp_path) == own_boxes(small)

    def test_takes_the_parts_of_a_file_that_was_not_merged(self, small, tmp_path, capsys):
        whole, parts = correspondences(small, listed_ids(small), 3, 0.3), []
        for number, rows in enumerate((slice(9), slice(9, None))):
            part = json.loads(json.dumps(whole))
            for column in ("bbox", "knn_bbox_pair"):
                part["pseudo_annotations"][column] = part["pseudo_annotations"][column][rows]
            parts.append(str(write(tmp_path / f"part{number}.json", part)))
        merged = write(tmp_path / "whole.json", whole)
        hashes = []
        for files in ([str(merged)], parts):
            assert import_command(["correspondences", *files, *settings(small)]) == 0
            hashes.append(capsys.readouterr().out.partition("freeze=")[2])
        assert hashes[0] == hashes[1]

    def test_is_no_garbage_before_a_run_has_used_it(self, small, tmp_path):
        file = write(tmp_path / "knn.json", neighbors(small, listed_ids(small), 3))
        assert import_command(["neighbors", str(file), *settings(small)]) == 0
        (run,) = small.store.runs()
        entry = run["stages"]["neighbors"]
        found = find_garbage(small.store, [stage.name for stage in main_job()])
        assert not {entry["key"], *entry["parts"].values()} & set(found.keys.get("neighbors", ()))
        assert small.plan("neighbors").key in found.keys["neighbors"]  # which no run of this store names

    def test_says_what_is_missing(self, small, tmp_path, refused):
        knn = write(tmp_path / "knn.json", neighbors(small, listed_ids(small), 3))
        mine = settings(small)
        assert "no file at" in refused(import_command, "neighbors", tmp_path / "absent.json", *mine)
        assert refused(import_command, "neighbors", *mine) == "name the file to import\n"
        assert "a k-NN file is one file" in refused(import_command, "neighbors", knn, knn, *mine)
        assert "--order is for proposals" in refused(import_command, "neighbors", knn, "--order", knn, *mine)
        elsewhere = [*mine, f"execution.store={tmp_path / 'new'}"]
        assert "is no store: there is nothing in it" in refused(import_command, "neighbors", knn, *elsewhere)
        assert not (tmp_path / "new").exists()

    def test_tells_a_file_from_a_setting_by_its_folder(self, small, tmp_path, refused):
        assert "no file at" in refused(import_command, "neighbors", tmp_path / "k=10.json", *settings(small))
        assert "unknown setting" in refused(import_command, "neighbors", "k=10.json", *settings(small))

    def test_of_a_folder_needs_an_order_for_a_plain_file(self, small, tmp_path, refused):
        file = write(tmp_path / "p.json", proposals(small, listed_ids(small)))
        folder = SmallStore.new(tmp_path / "store", "source.kind=folder", f"source.images={small.config.source.images}")
        folder.make("scenes")
        told = refused(import_command, "proposals", file, *settings(folder))
        assert "does not name its images, and a source of kind folder has no COCO JSON" in told

    def test_an_order_for_a_file_that_names_its_images_is_refused(self, small, tmp_path, refused):
        ids = listed_ids(small)
        file = write(tmp_path / "p.json", {"images": {"id": ids}, **proposals(small, ids)})
        order = write(tmp_path / "order.json", {"images": [{"id": i} for i in ids]})
        told = refused(import_command, "proposals", file, "--order", order, *settings(small))
        assert told == "--order is for files that do not name their images; these do\n"

    def test_files_of_which_only_some_name_their_images_are_refused(self, small, tmp_path, refused):
        ids = listed_ids(small)
        named = write(tmp_path / "named.json", {"images": {"id": ids[::-1]}, **proposals(small, ids)})
        plain = write(tmp_path / "plain.json", proposals(small, ids))
        told = refused(import_command, "proposals", named, plain, *settings(small))
        assert "named.json names its images and" in told
        assert "plain.json does not" in told

    def test_that_is_interrupted_leaves_nothing_to_pin(self, small, tmp_path, capsys, monkeypatch):
        def stop(*_arguments):
            raise KeyboardInterrupt

        file, before = (
            write(tmp_path / "knn.json", neighbors(small, listed_ids(small), 3)),
            set(small.store.root.files()),
        )
        monkeypatch.setattr("orl_ray.interchange.commands.import_neighbors", stop)
        assert import_command(["neighbors", str(file), *settings(small)]) == 130
        assert "interrupted" in capsys.readouterr().err
        assert set(small.store.root.files()) == before


class TestExport:
    def test_says_what_the_file_is_without(self, small, tmp_path, capsys):
        assert export_command(["neighbors", str(tmp_path / "out.json"), *settings(small)]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0] == f"19 images exported: {tmp_path / 'out.json'}"
        assert told[1].startswith("1 images of the COCO JSON are not in the store and not in the file")

    def test_that_must_align_is_refused(self, small, tmp_path, refused):
        order = ["--order", small.config.source.annotations]
        told = refused(export_command, "neighbors", tmp_path / "out.json", *order, *settings(small))
        assert told.startswith("1 of 20 images of ")

    def test_names_the_stage_that_is_not_made_yet(self, small, tmp_path, refused):
        changed = [*settings(small), "rois.max_iou=0.1"]
        told = refused(export_command, "correspondences", tmp_path / "out.json", *changed)
        assert told.startswith("rois are not made yet in ")
        assert "jobs/full_pipeline.py --until rois with the same settings first" in told

    def test_a_store_that_is_not_there_is_told_and_not_made(self, small, tmp_path, refused):
        told = refused(export_command, "proposals", tmp_path / "o.json", f"execution.store={tmp_path / 'new'}")
        assert "is no store: there is nothing in it" in told
        assert not (tmp_path / "new").exists()
