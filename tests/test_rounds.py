"""Rounds: the next one's encoder is the object-level result of the one before, by content; nothing is made twice."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from small_store import SmallStore

from orl_ray import schema
from orl_ray.cli import dry_run_of_rounds, full_pipeline
from orl_ray.config import flatten
from orl_ray.graph import main_job
from orl_ray.housekeeping.garbage import delete_garbage, find_garbage
from orl_ray.interchange.commands import export_command
from orl_ray.pins import COPIED_FROM, PinError, copy_encoder, resolve_pins
from orl_ray.pipeline import State
from orl_ray.report.stages import PAGE
from orl_ray.rounds import known_rounds, neighbor_overlap, next_round, stages_of_round
from orl_ray.settings import ConfigError, load
from orl_ray.storage import TABLE, parquet_bytes


def of_rounds(small, rounds=2, **values):
    return SmallStore(replace(small.config, rounds=rounds, **values), small.store)


def plans_of(small):
    return [small.plan(stage.name) for stage in main_job()]


def following(small):
    """Return the next round of a store whose round is finished."""
    return SmallStore(next_round(small.config, plans_of(small)), small.store)


@pytest.fixture(scope="module")
def first(finished, tmp_path_factory):
    """A store that has finished its first round of two."""
    return of_rounds(finished.copy(tmp_path_factory.mktemp("rounds") / "store"))


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """A copy of it that has finished both."""
    copy = following(first.copy(tmp_path_factory.mktemp("rounds") / "both"))
    copy_encoder(copy.store, resolve_pins(copy.config, copy.store))
    copy.make()
    return copy


@pytest.fixture
def both(second, tmp_path):
    """Both rounds finished, under the config that a user gives, to be changed."""
    copy = second.copy(tmp_path / "store")
    return of_rounds(copy, freeze="")


def command(small, *options):
    values = flatten(small.config)
    values["execution.store"] = small.store.root.local
    return [*options, *(f"{name}={value}" for name, value in values.items())]


def paths(store):
    return sorted(info.path for info in store.root.files())


class TestEncoder:
    def test_is_the_object_level_result_of_the_round_before(self, first, second):
        trained, encoder = first.records("object_level")[0], second.records("image_level")[0]
        assert encoder.content_hash == trained.content_hash
        for name in trained.files:
            copied = second.store.read_file("image_level", encoder.key, name)
            assert copied == first.store.read_file("object_level", trained.key, name)
        assert encoder.facts == {**trained.facts, COPIED_FROM: trained.key}

    def test_makes_new_embeddings_of_the_same_regions(self, first, second):
        for name in ("scenes", "proposals", "rois"):
            assert second.plan(name).key == first.plan(name).key
        for name in ("image_embeddings", "neighbors", "roi_embeddings", "correspondences", "object_level"):
            assert second.plan(name).key != first.plan(name).key
        assert second.plan("image_embeddings").content_hash != first.plan("image_embeddings").content_hash

    def test_can_be_frozen_by_hand_and_nothing_is_written_before_a_run(self, first, tmp_path):
        copy = first.copy(tmp_path / "copy")
        before, wanted = paths(copy.store), copy.plan("object_level").content_hash
        frozen = of_rounds(copy, rounds=1, freeze=f"encoder@{wanted[:12]}")
        pin = resolve_pins(frozen.config, copy.store)["image_level"]
        assert (pin.stage, pin.content_hash) == ("image_level", wanted)
        assert frozen.plan("image_level").reason == f"frozen: content {wanted}"
        assert frozen.plan("image_embeddings").state is State.RUN
        assert paths(copy.store) == before

    def test_is_found_again_when_the_result_that_it_was_copied_from_is_gone(self, second, tmp_path):
        copy = second.copy(tmp_path / "copy")
        before = resolve_pins(copy.config, copy.store)
        encoder = copy.records("image_level")[0]
        manifests = copy.store.root.names("object_level/manifests")
        for name in manifests:
            copy.store.delete_manifest("object_level", name.removesuffix(".json"))
        copy.store.delete_part("object_level", encoder.facts[COPIED_FROM])
        assert resolve_pins(copy.config, copy.store) == before
        copy_encoder(copy.store, before)  # has nothing to copy, and does not try

    def test_that_does_not_fit_the_config_is_refused(self, first, tmp_path):
        copy, trained = first.copy(tmp_path / "copy"), first.plan("object_level")
        told = replace(trained.records[0], facts={**trained.records[0].facts, "encoder": asdict(first.config.encoder)})
        copy.store.write_manifest("object_level", trained.key, [told])
        other = copy.with_settings(encoder={"backbone": "resnet50"})
        with pytest.raises(PinError, match=r"the frozen encoder has encoder\.backbone=resnet18, the config resnet50"):
            resolve_pins(replace(other.config, freeze=f"encoder@{trained.content_hash}"), copy.store)

    def test_of_an_unknown_hash_is_not_there(self, first):
        with pytest.raises(PinError, match="no encoder with content hash beef is in"):
            resolve_pins(replace(first.config, freeze="encoder@beef"), first.store)

    def test_the_report_says_what_it_calls_image_level(self, first, second):
        page = second.store.read_file("report", second.records("report")[0].key, PAGE).decode()
        content = first.plan("object_level").content_hash
        told = f"an earlier one&#x27;s object-level network, {content}, is what this page calls image-level"
        assert told in page
        assert "This is a later round" not in (
            first.store.read_file("report", first.records("report")[0].key, PAGE).decode()
        )


class TestPlans:
    def test_a_round_is_known_once_the_one_before_has_trained(self, tmp_path, first, second):
        new = of_rounds(SmallStore.new(tmp_path / "new"))
        assert [planned.number for planned in known_rounds(new.config, "report", new.store)] == [1]
        known = list(known_rounds(first.config, "report", first.store))
        assert [planned.number for planned in known] == [1, 2]
        states = {p.stage.name: p.state for p in known[1].plans}
        assert {name for name, state in states.items() if state is not State.DONE} == {
            *("image_embeddings", "centroids", "shards", "neighbors", "roi_embeddings", "correspondences"),
            *("object_level", "evaluation", "report"),
        }
        done = known_rounds(replace(second.config, freeze=""), "report", second.store)
        assert all(p.state is State.DONE for planned in done for p in planned.plans)

    def test_all_rounds_but_the_last_go_as_far_as_to_train(self, first):
        names = [[stage.name for stage in stages_of_round(first.config, "neighbors", number)] for number in (1, 2)]
        assert "object_level" in names[0]
        assert names[1][-1] == "neighbors"
        assert "evaluation" not in names[0]

    def test_a_dry_run_tells_every_round_that_is_known(self, first, tmp_path):
        before = paths(first.store)
        text = dry_run_of_rounds(first.config, "report", first.store)
        assert [line for line in text.splitlines() if line.startswith("round")] == ["round 1 of 2", "round 2 of 2"]
        assert "frozen: content" in text.partition("round 2 of 2")[2]
        assert paths(first.store) == before
        new = of_rounds(SmallStore.new(tmp_path / "new"), 3)
        text = dry_run_of_rounds(new.config, "report", new.store)
        assert text.endswith("round 2 of 3: waits for round 1\nround 3 of 3: waits for round 2")

    def test_other_pins_stay(self, first):
        config = replace(first.config, freeze="centroids,encoder@ab")
        content = first.plan("object_level").content_hash
        assert next_round(config, plans_of(first)).freeze == f"centroids,encoder@{content}"


class TestCommand:
    @pytest.fixture(autouse=True)
    def no_ray(self, monkeypatch):
        monkeypatch.setattr("orl_ray.execution.ray_session", lambda *_: pytest.fail("Ray was started"))

    def test_finished_rounds_are_not_made_again_and_every_run_says_which_round_it_is(self, both, capsys):
        assert full_pipeline(command(both)) == 0
        told = capsys.readouterr().out
        assert "neighbours as in the round before: " in told
        later, earlier = sorted(both.store.runs(), key=lambda run: -run["round"]["number"])
        assert earlier["round"] == {"number": 1, "of": 2, "builds_on": []}
        assert later["round"] == {"number": 2, "of": 2, "builds_on": [earlier["run_id"]]}
        assert later["stages"]["image_level"]["content_hash"] == earlier["stages"]["object_level"]["content_hash"]
        page = f"{both.store.root}/report/{later['stages']['report']['key']}/{PAGE}"
        assert f"report: {page}" in told.rpartition("round 2 of 2")[2]

    def test_a_dry_run_of_finished_rounds_has_nothing_to_make(self, both, capsys):
        assert full_pipeline(command(both, "--dry-run")) == 0
        states = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.count("  ")]
        assert states.count("state") == 2
        assert {*states} - {*filter(lambda word: word.startswith("-"), states)} == {"state", "done"}

    def test_one_run_kept_by_the_garbage_collection_keeps_the_rounds_that_it_builds_on(self, both):
        assert full_pipeline(command(both)) == 0
        artifacts = [stage.name for stage in main_job("global")]
        delete_garbage(both.store, find_garbage(both.store, artifacts, keep_runs=1))
        assert full_pipeline(command(both)) == 0  # without Ray: all is there
        found = find_garbage(both.store, artifacts, keep_runs=1)
        assert len(found.runs) == 2  # the older run of both rounds
        assert not found.keys


class TestExport:
    def test_writes_what_the_last_round_found(self, both, second, tmp_path):
        files = [tmp_path / "rounds.json", tmp_path / "second.json", tmp_path / "first.json"]
        for file, small in zip(files, (both, second, of_rounds(both, rounds=1)), strict=True):
            assert export_command(command(small, "neighbors", str(file))) == 0
        found = [json.loads(file.read_bytes())["pseudo_annotations"] for file in files]
        assert found[0] == found[1] != found[2]

    def test_of_a_round_that_is_not_made_is_refused(self, first, tmp_path, capsys):
        copy = first.copy(tmp_path / "copy")
        assert export_command(command(copy, "neighbors", str(tmp_path / "out.json"))) == 2
        assert "neighbors are not made yet" in capsys.readouterr().err
        trained = copy.plan("object_level")
        copy.store.delete_manifest("object_level", trained.key)
        copy.store.delete_part("object_level", trained.records[0].key)
        assert export_command(command(copy, "neighbors", str(tmp_path / "out.json"))) == 2
        assert "round 2 of 2 has not begun" in capsys.readouterr().err


class TestSettings:
    @pytest.mark.parametrize(
        ("freeze", "told"),
        [
            ("encoder", "name the first one's encoder by its hash"),
            ("neighbors@ab", "neighbors that are frozen are the same in every round"),
            ("rois@a,correspondences@ab", "correspondences that are frozen are the same in every round"),
        ],
    )
    def test_what_would_be_the_same_in_every_round_is_refused(self, freeze, told):
        with pytest.raises(ConfigError, match=told):
            load("coco", None, ["rounds=2", f"freeze={freeze}"])
        load("coco", None, ["rounds=1", f"freeze={freeze}"])
        load("coco", None, ["rounds=2", "freeze=encoder@ab,centroids,proposals@12"])


class TestNeighborOverlap:
    def write(self, store, key, index, lists):
        ids = pa.array(list(lists), pa.int64())
        near = pa.array(list(lists.values()), pa.list_(pa.int64()))
        similarities = pa.array([[0.5] * len(row) for row in lists.values()], pa.list_(pa.float64()))
        table = pa.table([ids, near, similarities], schema=schema.NEIGHBORS)
        return store.write_part("neighbors", key, index, {TABLE: parquet_bytes(table)}, rows=len(ids))

    def test_counts_common_neighbours_of_the_images_of_both(self, tmp_path):
        store = SmallStore.new(tmp_path / "store").store
        before = [
            self.write(store, "a0", 0, {1: [2, 3, 4], 2: [1, 3, 4]}),
            self.write(store, "a1", 1, {9: [1, 2, 3]}),
        ]
        after = [self.write(store, "b0", 0, {1: [3, 9, 2], 2: [1, 3, 9], 5: [1, 2, 3]})]
        assert neighbor_overlap(store, before, after, 2) == 3 / 4
        assert neighbor_overlap(store, before, after, 3) == 4 / 6
        assert neighbor_overlap(store, before, before, 3) == 1
        assert math.isnan(neighbor_overlap(store, before, [], 3))

    def test_of_two_rounds_lies_between_none_and_all(self, first, second):
        overlap = neighbor_overlap(second.store, first.records("neighbors"), second.records("neighbors"), 3)
        assert 0 < overlap < 1
        assert np.isfinite(overlap)
