"""Keys and the plan: what is made again, what is not, and why; what runs next."""

import dataclasses
import functools
import shutil
from dataclasses import replace

import pytest

from orl_ray.config import Config, flatten
from orl_ray.graph import main_job
from orl_ray.pipeline import (
    Input,
    PartPlan,
    Stage,
    StagePlan,
    State,
    collection_hash,
    next_to_run,
    plan,
    semantic_settings,
    up_to,
)
from orl_ray.settings import build, default, known_settings
from orl_ray.storage import PartRecord, Store, canonical_digest

KNOWN = known_settings()
SEMANTIC = [name for name, entry in KNOWN.items() if entry.metadata["semantic"]]
EXECUTION = [name for name in KNOWN if name.startswith("execution.")]
MAIN = main_job()


class MemoryStore:
    """What a plan reads of a store, without files."""

    def __init__(self):
        self.written, self.manifests, self.run_records = {}, {}, []

    def manifest(self, artifact, key):
        return self.manifests.get((artifact, key))

    def records(self, artifact, keys):
        return {key: self.written[artifact, key] for key in keys if (artifact, key) in self.written}

    def present(self, artifact):
        return {key for name, key in self.written if name == artifact}

    def runs(self):
        return reversed(self.run_records)

    def write_part(self, artifact, key, index, files, *, rows):
        content = canonical_digest({name: data.decode() for name, data in files.items()})
        self.written[artifact, key] = PartRecord(artifact, key, index, rows, {}, content)
        return self.written[artifact, key]

    def write_manifest(self, artifact, key, records):
        self.manifests[artifact, key] = sorted(records, key=lambda record: record.index)

    def write_run(self, run_id, value):
        self.run_records.append({"run_id": run_id, **value})


def by_key(_stage, _index, key):
    """Give each part content of its own, as if every change of a key changed the result."""
    return key


def by_place(stage, index, _key):
    """Give a part the same content whatever its key, as if no setting changed any result."""
    return f"{stage} {index}"


def make(store, stage_plan, parts, content):
    """Write what is missing of a stage, as its work would."""
    name, stage = stage_plan.stage.name, stage_plan.stage
    if stage.inputs:
        wanted = [(part.index, part.key) for part in stage_plan.missing]
    else:
        wanted = [(index, f"{stage_plan.key}-{index}") for index in range(parts)]
    written = [
        store.write_part(name, key, index, {"file": content(name, index, key).encode()}, rows=10)
        for index, key in wanted
    ]
    kept = [record for record in stage_plan.records if stage.scope == "part"]
    store.write_manifest(name, stage_plan.key, [*kept, *written])


def run_all(config, stages, store, parts=2, content=by_key):
    """Carry a plan out to the end, and leave a run record; return the final plan by stage name, and what was made."""
    made = {}
    while chosen := next_to_run(plans := plan(config, stages, store), {}, config, 4):
        make(store, chosen, parts, content)
        made[chosen.stage.name] = len(chosen.missing)
    entries = {
        p.stage.name: {"key": p.key, "version": p.stage.version, "settings": p.settings, "inputs": p.inputs}
        for p in plans
    }
    store.write_run(f"run-{len(list(store.runs()))}", {"stages": entries})
    return {p.stage.name: p for p in plans}, made


def changed_keys(values, content):
    """Return the stages of the main job whose keys differ from the defaults' when some settings are changed."""
    before, after = default_keys(content), keys_of(build({**flatten(Config()), **values}), content)
    return {name for name in before if before[name] != after[name]}


def keys_of(config, content):
    plans, _ = run_all(config, MAIN, MemoryStore(), content=content)
    return {name: p.key for name, p in plans.items()}


@functools.cache
def default_keys(content):
    return keys_of(Config(), content)


def other(name):
    """Return a value that differs from a setting's default."""
    value, choices = default(KNOWN[name]), KNOWN[name].metadata["choices"]
    if choices:
        return next(choice for choice in choices if choice != value)
    return not value if isinstance(value, bool) else value + (1 if isinstance(value, int | float) else "x")


def naming(setting, stages=MAIN):
    return {
        stage.name
        for stage in stages
        if any(setting == name or setting.startswith(f"{name}.") for name in stage.settings)
    }


def shaped_by(setting):
    """Return the stages whose keys a setting enters: by name, or as what the embedded scenes are."""
    return naming(setting) | ({"packed_scenes"} if setting in ("seed", "generated.side") else set())


def followers(names, stages=MAIN):
    """Return stages and all that read them, directly or not; what only comes after them does not follow."""
    found = set(names)
    for stage in stages:
        if found & {entry.artifact for entry in stage.inputs if entry.when(Config())}:
            found.add(stage.name)
    return found


class TestKeysOfTheMainJob:
    @pytest.mark.parametrize("setting", [name for name in SEMANTIC if name != "source.kind"])
    def test_a_setting_changes_the_keys_of_the_stages_that_name_it_and_no_others(self, setting):
        assert changed_keys({setting: other(setting)}, by_place) == shaped_by(setting)

    @pytest.mark.parametrize("setting", [name for name in SEMANTIC if name != "source.kind"])
    def test_what_follows_from_changed_content_changes_too_and_nothing_else(self, setting):
        assert changed_keys({setting: other(setting)}, by_key) == followers(shaped_by(setting))

    @pytest.mark.parametrize("setting", SEMANTIC)
    def test_every_semantic_setting_is_named_by_a_stage(self, setting):
        assert naming(setting)

    @pytest.mark.parametrize("setting", EXECUTION)
    def test_execution_settings_never_change_a_key(self, setting):
        assert changed_keys({setting: other(setting)}, by_key) == set()

    @pytest.mark.parametrize("setting", ["mining.k", "mining.pair_ratio"])
    def test_k_and_pair_ratio_below_their_maxima_leave_all_mining_as_it_is(self, setting):
        assert changed_keys({setting: default(KNOWN[setting]) / 2}, by_place) == {"object_level", "report"}
        assert changed_keys({setting: default(KNOWN[setting]) / 2}, by_key) == {"object_level", "evaluation", "report"}

    def test_the_number_of_shards_leaves_neighbours_as_they_are(self):
        assert "neighbors" not in changed_keys({"mining.shards": 5}, by_key)

    @pytest.mark.parametrize("setting", ["mining.shards", "seed"])
    def test_an_approximate_index_depends_on_shards_and_on_its_draw(self, setting):
        content = {"mining.shards": by_key, "seed": by_place}[setting]
        values = {**flatten(Config()), "mining.index": "ivf"}
        before = keys_of(build(values), content)
        assert keys_of(build({**values, setting: 5}), content)["neighbors"] != before["neighbors"]

    def test_an_execution_setting_can_be_named_by_no_stage(self):
        with pytest.raises(ValueError, match=r"execution\.cpus names no semantic setting"):
            semantic_settings(Config(), ["execution.cpus"])

    @pytest.mark.parametrize("stage", MAIN, ids=lambda stage: stage.name)
    def test_every_stage_names_settings_and_inputs_that_exist(self, stage):
        if stage.settings:
            semantic_settings(Config(), stage.settings)
        earlier = [entry.name for entry in MAIN[: MAIN.index(stage)]]
        assert {entry.artifact for entry in stage.inputs} | set(stage.after) <= set(earlier)
        assert stage.scope == "collection" or any(entry.scope == "part" for entry in stage.inputs)

    def test_where_images_lie_is_part_of_what_is_listed_and_packed(self, tmp_path):
        values = {"source.kind": "folder", "source.images": str(tmp_path)}
        changed = changed_keys(values, by_place)
        assert changed == {"listing", "packed_scenes", "evaluation", "report"}  # without labels, evaluation is skipped

    def test_generated_scenes_are_packed_again_for_another_seed_or_size(self):
        # Their ids and paths stay the same, so the listing's content does not tell.
        for setting in ("seed", "generated.side"):
            assert "packed_scenes" in changed_keys({setting: other(setting)}, by_place)

    def test_the_content_of_the_annotations_is_part_of_what_is_scored_and_no_reason_to_list_again(self, tmp_path):
        file = tmp_path / "instances.json"
        values = {"source.kind": "coco", "source.images": str(tmp_path), "source.annotations": str(file)}
        config, keys = build(values), []
        for text in ("{}", '{"a": 1}'):
            file.write_text(text)
            plans, _ = run_all(config, MAIN, MemoryStore(), content=by_place)
            keys.append({name: p.key for name, p in plans.items()})
        assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"evaluation"}


def no_work(_run):
    raise AssertionError("a plan starts nothing")


SOURCE = Stage("source", "list", 1, (), ("seed",), no_work, scope="collection")
FIRST = Stage("first", "first", 1, (Input("source"),), ("rois",), no_work)
WHOLE = Stage("whole", "fit", 1, (Input("first", "collection"),), ("mining.shards",), no_work, scope="collection")
BOTH = Stage("both", "both", 1, (Input("first"), Input("whole", "collection")), ("mining.k_max",), no_work)
LAID = Stage("laid", "laid", 1, (Input("source"),), (), no_work, after=("whole",))
GRAPH = [SOURCE, FIRST, WHOLE, BOTH, LAID]


def settings_of(**values):
    return build({**flatten(Config()), **{name.replace("__", "."): value for name, value in values.items()}})


class TestKeys:
    def test_a_setting_at_its_default_is_not_in_the_key(self):
        # So a setting that is new in a later version leaves old work as it is.
        assert semantic_settings(Config(), ("rois", "seed")) == {}
        assert semantic_settings(settings_of(rois__max_iou=0.4), ("rois", "seed")) == {"rois.max_iou": 0.4}

    def test_are_pinned(self):
        # Stores keep keys: a change of how they are made stales every store that there is.
        plans, _ = run_all(settings_of(rois__max_iou=0.25), GRAPH, MemoryStore(), content=by_place)
        assert {name: p.key for name, p in plans.items()} == {
            "source": "986ad9fa95cf864c27dfefd668265d94",
            "first": "48296886bd51d0764e26c695e2c8253e",
            "whole": "6a7c3baea04f6fac0c8714cab6e627f4",
            "both": "f5d3ec41d23ea821ea68541a81a321e0",
            "laid": "a0e7a227792790f4f4e55c1338fe8cb4",
        }

    def test_a_section_stands_for_its_semantic_settings_alone(self, tmp_path):
        config = settings_of(source__images=str(tmp_path), source__limit=3)
        assert semantic_settings(config, ("source",)) == {"source.limit": 3}

    def test_a_name_stands_for_no_longer_name_that_begins_like_it(self):
        assert semantic_settings(settings_of(mining__k_max=30), ("mining.k",)) == {}

    def test_the_stage_version_is_part_of_the_key(self):
        newer = [dataclasses.replace(stage, version=2) if stage is FIRST else stage for stage in GRAPH]
        before, _ = run_all(Config(), GRAPH, MemoryStore(), content=by_place)
        after, _ = run_all(Config(), newer, MemoryStore(), content=by_place)
        assert {name for name in before if before[name].key != after[name].key} == {"first"}

    def test_an_identity_is_part_of_the_key(self):
        other_one = [dataclasses.replace(SOURCE, identity=lambda _config: {"images": "/data"}), *GRAPH[1:]]
        before, _ = run_all(Config(), GRAPH, MemoryStore(), content=by_place)
        after, _ = run_all(Config(), other_one, MemoryStore(), content=by_place)
        assert {name for name in before if before[name].key != after[name].key} == {"source"}

    def test_parts_with_equal_content_have_keys_of_their_own(self):
        plans, _ = run_all(Config(), GRAPH, MemoryStore(), parts=5, content=lambda *_: "same")
        assert len({record.key for record in plans["first"].records}) == 5

    def test_part_scope_follows_its_own_part_and_collection_scope_all(self):
        def mended(name, index, key):
            return "mended" if (name, index) == ("source", 1) else by_place(name, index, key)

        stages, keys = [SOURCE, FIRST, WHOLE], []
        for content in (by_place, mended):
            plans, _ = run_all(Config(), stages, MemoryStore(), parts=3, content=content)
            keys.append([record.key for record in plans["first"].records])
        assert [a == b for a, b in zip(*keys, strict=True)] == [True, False, True]

    def test_the_collection_hash_depends_on_numbers_and_content_of_parts_alone(self):
        def record(index, content, **more):
            return PartRecord("a", f"key {more}", index, 1, {}, content, **more)

        same = collection_hash([record(0, "x"), record(1, "y")])
        assert collection_hash([record(0, "x", seconds=9), record(1, "y", facts={"n": 1})]) == same
        assert collection_hash([record(0, "y"), record(1, "x")]) != same
        assert collection_hash([record(0, "x")]) != same


class TestPlan:
    def test_of_a_new_store_the_first_stage_runs_and_the_others_wait(self):
        plans = plan(Config(), GRAPH, MemoryStore())
        assert [p.state for p in plans] == [State.RUN, *[State.WAITS] * 4]
        assert [p.reason for p in plans] == [
            "to make: not made before",
            "needs source",
            "needs first",
            "needs first, whole",
            "needs source, whole",
        ]
        assert all(p.key == "" for p in plans[1:])

    def test_after_a_run_everything_is_done_and_nothing_is_made_again(self):
        store = MemoryStore()
        _, made = run_all(Config(), GRAPH, store, parts=3)
        assert made == {"source": 1, "first": 3, "whole": 1, "both": 3, "laid": 3}
        plans, made = run_all(Config(), GRAPH, store, parts=3)
        assert made == {}
        assert {(p.state, p.reason) for p in plans.values()} == {(State.DONE, "up to date")}

    def test_a_setting_that_changed_is_told_with_both_values(self):
        store = MemoryStore()
        run_all(settings_of(rois__max_iou=0.4), GRAPH, store)
        (_, first, *_) = plan(settings_of(rois__max_iou=0.3, rois__max_rois=7), GRAPH, store)
        assert first.reason == "2 of 2 parts to make: rois.max_iou 0.4 -> 0.3; rois.max_rois 100 -> 7"

    def test_going_back_to_earlier_settings_finds_the_earlier_work(self):
        store = MemoryStore()
        run_all(Config(), GRAPH, store)
        run_all(settings_of(rois__max_iou=0.4), GRAPH, store)
        assert run_all(Config(), GRAPH, store)[1] == {}

    def test_a_stage_version_that_changed_is_told_with_both(self):
        store = MemoryStore()
        run_all(Config(), GRAPH, store)
        newer = [replace(stage, version=stage.version + 1) if stage.name == "first" else stage for stage in GRAPH]
        (_, first, *_) = plan(Config(), newer, store)
        assert first.reason == "2 of 2 parts to make: stage version 1 -> 2"

    def test_an_input_that_changed_is_told_by_name(self):
        store = MemoryStore()
        run_all(Config(), GRAPH, store)
        make(store, plan(settings_of(rois__max_iou=0.4), GRAPH, store)[1], 2, by_key)
        whole = plan(settings_of(rois__max_iou=0.4), GRAPH, store)[2]
        assert (whole.state, whole.reason) == (State.RUN, "to make: first changed")

    def test_changed_settings_that_leave_the_content_as_it_was_stale_nothing_behind_them(self):
        store = MemoryStore()
        run_all(Config(), GRAPH, store, content=by_place)
        _, made = run_all(settings_of(rois__max_iou=0.4), GRAPH, store, content=by_place)
        assert made == {"first": 2}

    def test_missing_parts_are_counted_and_only_they_are_made(self):
        store = MemoryStore()
        run_all(Config(), [SOURCE], store, parts=5)
        missing = plan(Config(), GRAPH, store)[1].missing
        for part in missing[1:4]:
            store.write_part("first", part.key, part.index, {"file": part.key.encode()}, rows=10)
        first = plan(Config(), GRAPH, store)[1]
        assert first.reason == "2 of 5 parts to make: not made before"
        assert [part.index for part in first.missing] == [0, 4]
        assert [record.index for record in first.records] == [1, 2, 3]

    def test_more_images_bring_more_parts_and_leave_the_others(self):
        store = MemoryStore()
        run_all(Config(), [SOURCE, FIRST], store, parts=2, content=by_place)
        _, made = run_all(settings_of(seed=1), [SOURCE, FIRST], store, parts=5, content=by_place)
        assert made == {"source": 1, "first": 3}

    @pytest.mark.parametrize(("stage", "number"), [("first", 1), ("whole", 0), ("source", 1)])
    def test_a_part_that_was_deleted_is_made_again(self, stage, number):
        store = MemoryStore()
        plans, _ = run_all(Config(), GRAPH, store)
        del store.written[stage, plans[stage].records[number].key]
        again, made = run_all(Config(), GRAPH, store)
        assert made == {stage: 1}
        assert [record.index for record in again[stage].records] == [r.index for r in plans[stage].records]

    def test_a_missing_part_knows_its_number_its_key_and_the_input_parts_it_reads(self):
        store = MemoryStore()
        plans, _ = run_all(Config(), [SOURCE], store, parts=2)
        first = plan(Config(), GRAPH, store)[1]
        keys = [record.key for record in plans["source"].records]
        assert [part.inputs for part in first.missing] == [{"source": key} for key in keys]
        assert first.manifests == {"source": plans["source"].key}

    def test_a_stage_knows_the_manifests_of_inputs_and_of_what_it_comes_after(self):
        plans, _ = run_all(Config(), GRAPH, MemoryStore())
        assert plans["laid"].manifests == {name: plans[name].key for name in ("source", "whole")}
        assert set(plans["laid"].inputs) == {"source"}

    def test_a_skipped_stage_gives_its_reason_and_nobody_waits_for_it(self):
        skipped = dataclasses.replace(WHOLE, skip=lambda _config: "no labels")
        plans, made = run_all(Config(), [SOURCE, FIRST, skipped, BOTH], MemoryStore())
        assert (plans["whole"].state, plans["whole"].reason, plans["whole"].key) == (State.SKIPPED, "no labels", "")
        assert "whole" not in made
        assert plans["both"].state is State.DONE
        assert "whole" not in plans["both"].manifests

    def test_a_collection_waits_until_all_parts_are_there(self):
        store = MemoryStore()
        run_all(Config(), [SOURCE], store, parts=3)
        part = plan(Config(), GRAPH, store)[1].missing[0]
        store.write_part("first", part.key, 0, {"file": b"x"}, rows=1)
        assert plan(Config(), GRAPH, store)[2].reason == "needs first"


class TestUpTo:
    def test_is_a_stage_and_all_that_it_needs_in_the_same_order(self):
        assert up_to(GRAPH, "whole") == [SOURCE, FIRST, WHOLE]
        assert up_to(GRAPH, "laid") == [SOURCE, FIRST, WHOLE, LAID]  # also what it comes after
        assert up_to(MAIN, "report") == MAIN

    def test_what_only_a_frozen_stage_needs_is_left_out(self):
        assert up_to(GRAPH, "whole", {"first": ()}) == [FIRST, WHOLE]
        assert up_to(GRAPH, "whole", {"first": ("source",)}) == [SOURCE, FIRST, WHOLE]
        assert up_to(GRAPH, "laid", {"whole": ()}) == [SOURCE, WHOLE, LAID]

    def test_an_unknown_stage_is_told_with_those_there_are(self):
        with pytest.raises(ValueError, match="unknown stage 'third'; the stages are source, first, whole, both, laid"):
            up_to(GRAPH, "third")


class TestStoreOnDisk:
    def test_a_store_that_moved_is_up_to_date(self, tmp_path):
        store = Store(tmp_path / "here")
        store.prepare()
        config = settings_of(execution__store=str(store.root))
        before, made = run_all(config, MAIN, store)
        assert len(made) == len(MAIN)
        shutil.move(store.root.local, tmp_path / "there")
        moved = Store(tmp_path / "there")
        after, made = run_all(settings_of(execution__store=str(moved.root)), MAIN, moved)
        assert made == {}
        assert after == before

    def test_planning_writes_nothing(self, tmp_path):
        plan(Config(), MAIN, Store(tmp_path / "none"))
        assert not (tmp_path / "none").exists()


def stage_plan(name, cpus, state=State.RUN):
    stage = Stage(name, name, 1, (), (), no_work, budget=lambda _config, total: min(cpus, total))
    return StagePlan(stage, state, "", missing=(PartPlan(0, "k"),))


class TestNextToRun:
    def choose(self, plans, running, cpus=8):
        chosen = next_to_run(plans, running, Config(), cpus)
        return chosen.stage.name if chosen else None

    def test_the_first_stage_to_run_comes_first(self):
        plans = [stage_plan("a", 2, State.DONE), stage_plan("b", 2), stage_plan("c", 2)]
        assert self.choose(plans, {}) == "b"

    def test_a_stage_starts_beside_another_where_its_cpus_are_free(self):
        plans = [stage_plan("a", 6), stage_plan("b", 4), stage_plan("c", 2)]
        assert self.choose(plans, {"a": 6}) == "c"
        assert self.choose(plans, {"a": 6, "c": 2}) is None
        assert self.choose(plans, {"c": 2}) == "a"

    def test_a_stage_that_needs_more_than_there_is_runs_alone(self):
        stage = stage_plan("greedy", 4)
        stage = dataclasses.replace(stage, stage=dataclasses.replace(stage.stage, budget=lambda _config, _total: 99))
        assert self.choose([stage], {}) == "greedy"
        assert self.choose([stage], {"a": 1}) is None

    @pytest.mark.parametrize("state", [State.DONE, State.WAITS, State.SKIPPED])
    def test_only_stages_to_run_are_chosen(self, state):
        assert self.choose([stage_plan("a", 1, state)], {}) is None

    def test_a_training_with_cpus_of_its_own_leaves_room_for_proposals(self):
        config, store = settings_of(execution__train_cpus=2), MemoryStore()
        run_all(config, MAIN[:4], store)  # as far as the scenes and their near-duplicates
        plans = plan(config, MAIN, store)
        assert next_to_run(plans, {}, config, 8).stage.name == "proposals"
        assert next_to_run(plans, {"proposals": 8}, config, 8) is None
        assert next_to_run(plans, {"proposals": 6}, config, 8).stage.name == "image_level"
