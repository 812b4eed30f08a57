"""Imported results in a run: pinned by content, for the very scenes that they were imported for, and built upon."""

import filecmp
from dataclasses import replace

import pytest
from reference_files import correspondences, listed_ids, neighbors, proposals, write

from orl_ray.cli import full_pipeline
from orl_ray.config import flatten
from orl_ray.graph import main_job
from orl_ray.interchange.commands import import_command
from orl_ray.pins import PinError, frozen_needs, resolve_pins
from orl_ray.pipeline import State, plan, up_to
from orl_ray.pretraining.export import export_training_set
from orl_ray.report.stages import PAGE


@pytest.fixture
def small(coco, tmp_path):
    return coco.copy(tmp_path / "copy")


def settings(small):
    return [f"{name}={value}" for name, value in flatten(small.config).items()]


def frozen(small, freeze):
    return replace(small, config=replace(small.config, freeze=freeze))


@pytest.fixture
def take(small, tmp_path, capsys):
    """Return a function that imports a kind and returns the store with what the command says to freeze."""

    def run(kind, content):
        write(tmp_path / f"{kind}.json", content)
        assert import_command([kind, str(tmp_path / f"{kind}.json"), *settings(small)]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "freeze=" in line)
        return frozen(small, line.partition("freeze=")[2])

    return run


def shifted(small):
    """Return proposals that are not our own, one more an image."""
    content = proposals(small, listed_ids(small))
    return {"bbox": [[[0, 0, 5, 5], *boxes] for boxes in content["bbox"]]}


def everything(small, k=3, ratio=0.3):
    return correspondences(small, listed_ids(small), k, ratio)


def with_fewer(small):
    return small.with_settings(mining={"k": 2, "pair_ratio": 0.1})


class TestPlan:
    def test_imported_proposals_are_done_and_rois_are_made_of_them(self, take, small):
        pinned = take("proposals", {"images": {"id": listed_ids(small)}, **shifted(small)})
        assert pinned.plan("proposals").state is State.DONE
        assert pinned.plan("proposals").reason.startswith("frozen: content ")
        assert [part.index for part in pinned.plan("rois").missing] == [0, 1, 2]
        assert "rois" in pinned.make("rois")
        found = {row["image_id"]: row["boxes"] for row in pinned.rows("rois")}
        assert found.keys() == set(listed_ids(small))

    def test_an_import_of_our_own_proposals_gives_the_same_rois_and_leaves_all_that_follows_up_to_date(
        self, take, small
    ):
        pinned = take("proposals", {"images": {"id": listed_ids(small)}, **proposals(small, listed_ids(small))})
        assert pinned.plan("proposals").key != small.plan("proposals").key
        assert pinned.make("object_level") == ["rois"]  # a file has no levels: other proposals, but the same RoIs

    def test_imported_neighbours_are_paired(self, take, small):
        content = neighbors(small, listed_ids(small), 3)
        for row in content["pseudo_annotations"]["knn_image_id"]:
            row.reverse()
        pinned = take("neighbors", content)
        assert pinned.make("correspondences") == ["correspondences"]
        ids, near = listed_ids(small), content["pseudo_annotations"]["knn_image_id"]
        by_image = {}
        for row in pinned.rows("correspondences"):
            by_image.setdefault(row["image_id"], []).append(row["neighbor_id"])
        assert by_image == {image_id: [ids[at] for at in row] for image_id, row in zip(ids, near, strict=True)}

    def test_images_without_a_proposal_are_missed_by_what_follows_and_by_nothing_else(self, take, small):
        content = {"images": {"id": listed_ids(small)}, **shifted(small)}
        content["bbox"][0] = []
        pinned = take("proposals", content)
        pinned.make("object_level")
        left = set(listed_ids(small)) - {listed_ids(small)[0]}
        assert {row["image_id"] for row in pinned.rows("rois")} == left
        assert {row["image_id"] for row in pinned.rows("correspondences")} == left

    def test_the_newest_import_is_found_without_its_hash(self, take, small, monkeypatch):
        ids = iter(("20260101T000000-b", "20260101T000001-a"))
        monkeypatch.setattr("orl_ray.interchange.commands.new_run_id", lambda: next(ids))
        take("neighbors", neighbors(small, listed_ids(small), 2))
        newest = take("neighbors", neighbors(small, listed_ids(small), 3))
        assert frozen(small, "neighbors").plan("neighbors").content_hash == newest.plan("neighbors").content_hash

    def test_other_entries_of_freeze_stay_in_what_is_printed(self, small, tmp_path, capsys):
        file = write(tmp_path / "knn.json", neighbors(small, listed_ids(small), 3))
        given = [*settings(small), "freeze=encoder,neighbors@ab12"]
        assert import_command(["neighbors", str(file), *given]) == 0
        assert "freeze=encoder,neighbors@" in capsys.readouterr().out


class TestRefusals:
    def test_results_of_our_own_are_not_found(self, small):
        own = small.plan("neighbors").content_hash
        with pytest.raises(PinError, match=f"no imported neighbors with content hash {own} are in"):
            resolve_pins(frozen(small, f"neighbors@{own}").config, small.store)
        with pytest.raises(PinError, match="has used imported neighbors yet: add the hash, as the import printed it"):
            resolve_pins(frozen(small, "neighbors").config, small.store)

    def test_an_import_for_other_scenes_is_refused_once_the_scenes_are_there(self, take, small):
        pinned = take("neighbors", neighbors(small, listed_ids(small), 3)).with_settings(source={"part_size": 5})
        assert pinned.plan("neighbors").state is State.WAITS
        assert pinned.plan("neighbors").reason == "frozen, needs scenes"
        pinned.make("scenes")
        with pytest.raises(PinError, match=r"imported for other scenes than there are now \(4 of 4 parts differ\)"):
            pinned.plan("neighbors")

    @pytest.mark.parametrize(
        ("setting", "told"),
        [({"k": 4}, "serve mining.k=3 at most, the config has 4"), ({"pair_ratio": 0.4}, "pair_ratio=0.3 at most")],
    )
    def test_more_than_the_file_holds_is_refused(self, take, small, setting, told):
        pinned = take("correspondences", everything(small)).with_settings(mining=setting)
        with pytest.raises(PinError, match=told):
            resolve_pins(pinned.config, small.store)

    def test_pairs_go_with_the_rois_of_their_own_import(self, take, small):
        pinned = take("correspondences", everything(small))
        pairs = next(entry for entry in pinned.config.freeze.split(",") if entry.startswith("correspondences"))
        with pytest.raises(PinError, match="go with the RoIs of the same import: freeze both"):
            resolve_pins(frozen(small, pairs).config, small.store)

    def test_equal_rois_serve_whichever_import_they_came_from(self, take, small):
        pinned = take("correspondences", everything(small))
        take("correspondences", everything(small, ratio=0.2))  # the newest RoIs of this content are of this one
        assert set(resolve_pins(with_fewer(pinned).config, small.store)) == {"rois", "correspondences"}

    def test_other_rois_do_not(self, take, small):
        pinned = take("correspondences", everything(small))
        content = everything(small)
        content["pseudo_annotations"]["bbox"][0].append([0, 0, 5, 5])
        other = take("correspondences", content)
        (pairs,) = (entry for entry in pinned.config.freeze.split(",") if entry.startswith("correspondences"))
        (rois,) = (entry for entry in other.config.freeze.split(",") if entry.startswith("rois"))
        with pytest.raises(PinError, match="freeze both"):
            resolve_pins(frozen(small, f"{rois},{pairs}").config, small.store)

    def test_less_than_the_file_holds_is_a_prefix(self, take, small):
        pinned = take("correspondences", everything(small)).with_settings(mining={"k": 2, "pair_ratio": 0.1})
        assert set(resolve_pins(pinned.config, small.store)) == {"rois", "correspondences"}


class TestTraining:
    def export(self, small, folder):
        names = ("scenes", "rois", "correspondences")
        manifests = {name: small.plan(name).key for name in names}
        export_training_set(small.config, small.store, manifests, folder)
        return folder

    def test_a_training_set_of_imported_correspondences_equals_that_of_our_own(self, take, small, tmp_path):
        pinned = take("correspondences", everything(small))
        own, imported = self.export(small, tmp_path / "own"), self.export(pinned, tmp_path / "imported")
        assert pinned.plan("correspondences").key != small.plan("correspondences").key
        names = sorted(path.name for path in own.iterdir())
        assert filecmp.cmpfiles(own, imported, names, shallow=False) == (names, [], [])

    def test_a_training_on_imported_pairs_needs_neither_proposals_nor_mining(self, take, small):
        pinned = take("correspondences", everything(small))
        stages = up_to(main_job(), "object_level", frozen_needs(pinned.config))
        names = [stage.name for stage in stages]
        scenes = ["listing", "packed_scenes", "scenes", "near_duplicates"]  # the last keeps the probe's fold apart
        assert names == [*scenes, "rois", "correspondences", "object_level"]
        plans = plan(pinned.config, stages, small.store, resolve_pins(pinned.config, small.store))
        assert [p.stage.name for p in plans if p.state is State.RUN] == ["object_level"]

    def test_the_main_job_plans_no_more_than_that(self, take, small, capsys):
        pinned = take("correspondences", everything(small))
        assert full_pipeline(["--dry-run", "--until", "object_level", *settings(pinned)]) == 0
        states = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]}
        assert "proposals" not in states
        assert {name for name, state in states.items() if state != "done"} == {"object_level"}


def test_a_report_shows_imported_pairs_without_similarities(take, small):
    pinned = take("correspondences", everything(small))
    knn = take("neighbors", neighbors(small, listed_ids(small), 3))
    both = frozen(small, f"{pinned.config.freeze},{knn.config.freeze}")
    both = both.with_settings(evaluation={"knn_k": 30})  # too few images to score, which is quick
    both.make()
    page = both.store.read_file("report", both.plan("report").key, PAGE).decode()
    assert "3 parts, imported" in page
    assert "paired regions" in page
    assert "with cosine similarities" not in page
