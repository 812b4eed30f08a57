"""Garbage of a store: exactly what no run record names; what is named is whole afterwards, whenever a clean-up dies."""

from unittest import mock

import pytest
from object_store import client, object_store, reached_by
from PIL import Image
from small_store import SMALL, SmallStore

from orl_ray import execution
from orl_ray.execution import RunSummary
from orl_ray.folders import Folder
from orl_ray.graph import main_job
from orl_ray.housekeeping.garbage import delete_garbage, find_garbage
from orl_ray.pipeline import State, plan
from orl_ray.scenes.generated import render_scene
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.storage import Store

ARTIFACTS = [stage.name for stage in main_job()]


def record_run(small, run_id, status="finished"):
    """Write the record of a run that ended as the store is now."""
    summary = RunSummary(run_id, plan(small.config, main_job(), small.store))
    small.store.write_run(run_id, execution._run_record(small.config, summary, status))


def files_of(store):
    return {info.path: (info.bytes, info.stamp) for info in store.root.files()}


def size_of(store):
    return sum(info.bytes for info in store.root.files())


def collect(store, keep_runs=None):
    delete_garbage(store, find_garbage(store, ARTIFACTS, keep_runs))


def assert_whole(store):
    """Check that every record and manifest names what is there, with the right hashes."""
    for artifact in ARTIFACTS:
        for key in store.present(artifact):
            for name in store.record(artifact, key).files:
                store.read_file(artifact, key, name)  # raises where it is not there, or changed
        for name in store.root.names(f"{artifact}/manifests"):
            for record in store.manifest(artifact, name.removesuffix(".json")):
                assert store.record(artifact, record.key) == record


@pytest.fixture
def small(finished, tmp_path):
    copy = finished.copy(tmp_path / "store")
    record_run(copy, "20260101-a")
    return copy


def test_a_store_of_which_all_is_named_has_none(small):
    before = files_of(small.store)
    assert find_garbage(small.store, ARTIFACTS).count == 0
    collect(small.store)
    assert files_of(small.store) == before


def test_what_only_forgotten_runs_name_goes_and_the_rest_stays_whole(small):
    before = files_of(small.store)
    other = small.with_settings(rois={"max_rois": 5})
    assert "rois" in other.make("correspondences")
    record_run(other, "20260102-b")
    assert find_garbage(small.store, ARTIFACTS).count == 0
    old = {name: {record.key for record in small.records(name)} for name in ("rois", "correspondences", "scenes")}

    garbage = find_garbage(small.store, ARTIFACTS, keep_runs=1)
    assert garbage.runs == ["20260101-a"]
    assert old["rois"] < set(garbage.keys["rois"])  # and the manifest
    assert "scenes" not in garbage.keys
    size = size_of(small.store)
    collect(small.store, keep_runs=1)
    assert size - size_of(small.store) == garbage.bytes.total() + before["runs/20260101-a.json"][0]
    assert {p.stage.name: p.state for p in plan(other.config, main_job(), other.store)}["correspondences"] is State.DONE
    assert_whole(small.store)
    assert small.plan("rois").state is State.RUN


def test_an_interrupted_run_keeps_its_finished_parts_and_its_checkpoints(small):
    other = small.with_settings(rois={"max_rois": 5})
    stage_plan = other.plan("rois")
    key = stage_plan.missing[0].key
    other = other.with_settings(image_level={"epochs": 3})
    training = other.plan("image_level").key
    record_run(other, "20260102-b", "running")
    small.store.write_part("rois", key, 0, {"x": b"whole"}, rows=1)
    small.store.root.write(f"checkpoints/image_level/{training}/step-1/state.json", b"{}")
    assert (
        find_garbage(small.store, ARTIFACTS, keep_runs=1).keys.get("rois") is None
        or key not in find_garbage(small.store, ARTIFACTS, keep_runs=1).keys["rois"]
    )
    collect(small.store, keep_runs=1)
    assert small.store.record("rois", key).rows == 1
    assert small.store.root.exists(f"checkpoints/image_level/{training}/step-1/state.json")


def test_the_log_of_a_training_that_a_run_names_stays(small):
    path = f"training_logs/image_level/{small.plan('image_level').key}/measurements.jsonl"
    small.store.root.write(path, b"{}")
    assert find_garbage(small.store, ARTIFACTS).count == 0


def test_of_a_finished_training_only_the_checkpoints_that_are_kept_stay(small):
    folder = f"checkpoints/image_level/{small.plan('image_level').key}"
    kept, passing = (f"{folder}/step-000000000010{kind}/state.json" for kind in ("-kept", ""))
    for path in (kept, passing, f"{folder}/progress.json"):
        small.store.root.write(path, b"{}")
    garbage = find_garbage(small.store, ARTIFACTS)
    assert sorted(garbage.files) == sorted([passing, f"{folder}/progress.json"])
    delete_garbage(small.store, garbage)
    assert small.store.root.exists(kept)
    assert find_garbage(small.store, ARTIFACTS).count == 0


REMAINS = {
    "a part without a record": "proposals/0123abcd/part.parquet",
    "a record whose files are gone": "proposals/0123abcd.json",
    "a manifest": "scenes/manifests/0123abcd.json",
    "quarantine of a part that never was": "quarantine/packed_scenes/0123abcd.parquet",
    "checkpoints of a training that nobody goes on with": "checkpoints/object_level/0123abcd/step-3/state.json",
    "scenes that nobody uses": "generated/train-0123abcd/images/0.jpg",
    "the lease of an output that is gone": "leases/object_level/0123abcd/00000001.json",
    "the lease of a run that died": "leases/runs/20250101-dead/00000001.json",
    "the probe of a preflight that was killed": "leases/preflight/0123abcd",
    "the log of a training that is gone": "training_logs/object_level/0123abcd/measurements.jsonl",
    "what Ray kept of a training that never ended": "ray_train/0123abcd/lease-1/state.json",
}


@pytest.mark.parametrize("path", REMAINS.values(), ids=REMAINS)
def test_what_a_killed_run_left_behind_goes(small, path):
    before = files_of(small.store)
    small.store.root.write(path, b"{}")
    garbage = find_garbage(small.store, ARTIFACTS)
    assert (garbage.count, garbage.bytes.total()) == (1, 2)
    delete_garbage(small.store, garbage)
    assert files_of(small.store) == before


def test_files_that_a_repacked_part_left_behind_go(small):
    before, key = files_of(small.store), small.records("packed_scenes")[1].key
    small.store.root.write(f"packed_scenes/{key}/images-00000-0123.bin", b"old pack")
    collect(small.store)
    assert files_of(small.store) == before


def test_files_that_a_killed_writer_did_not_end_go(small):
    aside = small.store.root.local / "proposals" / ".part.parquet.0123.tmp"
    aside.write_bytes(b"half")
    garbage = find_garbage(small.store, ARTIFACTS)
    assert garbage.half_written == [str(aside)]
    delete_garbage(small.store, garbage)
    assert not aside.exists()


def test_packs_that_scenes_lie_in_stay_though_the_source_has_moved_since(tmp_path):
    (tmp_path / "here").mkdir()
    for number in range(8):
        Image.fromarray(render_scene(7, "train", number, 64).image).save(tmp_path / "here" / f"{number}.png")
    settings = [setting for setting in SMALL if not setting.startswith("generated.")]
    old = SmallStore.new(tmp_path / "store", "source.kind=folder", f"source.images={tmp_path}/here", small=settings)
    old.make("proposals")
    record_run(old, "20260101-a")
    (tmp_path / "here").rename(tmp_path / "there")
    new = SmallStore.new(tmp_path / "store", "source.kind=folder", f"source.images={tmp_path}/there", small=settings)
    assert new.make("proposals") == ["listing", "packed_scenes"]
    record_run(new, "20260102-b")
    collect(new.store, keep_runs=1)
    for record in new.records("scenes"):
        assert len(list(decoded_scenes(new.store, record.key, 10**8))) == record.rows


def test_parts_that_a_rescan_listed_stay_though_it_was_cut_off(small):
    """The run record knows the manifest, and the parts that it listed before."""
    listing = small.plan("listing")
    part = small.store.write_part("listing", f"{listing.key}-000009", 9, {"x": b"new"}, rows=1)
    small.store.write_manifest("listing", listing.key, [*listing.records, part])
    collect(small.store)
    assert small.store.record("listing", part.key) == part


def test_a_run_that_failed_at_once_is_none_of_the_newest(small):
    small.store.write_run(
        "20260102-b", {**next(small.store.runs()), "run_id": "20260102-b", "status": "failed", "stages": {}}
    )
    assert find_garbage(small.store, ARTIFACTS, keep_runs=1).keys == {}


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_a_run_that_did_not_get_far_leaves_the_trainings_of_the_one_before(small, status):
    """Its later stages wait, and name nothing yet."""
    waiting = {"state": "waits", "key": "", "parts": {}, "missing": []}
    known = next(small.store.runs())
    stages = {name: entry if name == "listing" else waiting for name, entry in known["stages"].items()}
    small.store.write_run("20260102-b", {**known, "run_id": "20260102-b", "status": status, "stages": stages})
    assert find_garbage(small.store, ARTIFACTS, keep_runs=1).count == 0


def test_a_command_that_ended_between_its_rounds_leaves_the_run_before(small):
    known = next(small.store.runs())
    half = {**known, "run_id": "20260102-b", "stages": {}, "round": {"number": 1, "of": 2, "builds_on": []}}
    small.store.write_run("20260102-b", half)
    assert find_garbage(small.store, ARTIFACTS, keep_runs=1).count == 0


def test_what_builds_on_things_goes_before_them(small):
    """Keys are made of content: a later run would find scenes whose packs are gone."""
    other = small.with_settings(source={"max_pixels": 10**7})
    other.make("scenes")
    (small.store.root.local / "runs" / "20260101-a.json").unlink()
    gone, delete = [], Store.delete_part

    def note(store, artifact, key):
        gone.append(artifact)
        delete(store, artifact, key)

    with mock.patch.object(Store, "delete_part", note):
        collect(small.store)
    order = [name for name in ARTIFACTS if name in gone]
    assert list(dict.fromkeys(gone)) == order[::-1]


def test_an_import_is_none_of_the_newest_and_stays_with_them(small):
    part = small.store.write_part("proposals", "imported", 0, {"x": b"1"}, rows=1)
    entry = {"key": "all-imported", "parts": {"0": part.key}}
    record = {**next(small.store.runs()), "run_id": "20260102-b", "status": "imported", "stages": {"proposals": entry}}
    small.store.write_run("20260102-b", record)
    assert find_garbage(small.store, ARTIFACTS, keep_runs=1).keys == {}
    record_run(small, "20260103-c")
    assert find_garbage(small.store, ARTIFACTS, keep_runs=1).keys == {"proposals": ["imported"]}


def test_what_is_none_of_ours_stays(small):
    small.store.root.write("notes/about this store.txt", b"mine")
    small.store.root.write("notes/0123abcd.json", b"{}")
    (small.store.root.local / "notes" / ".draft.tmp").write_bytes(b"mine")
    collect(small.store, keep_runs=1)
    assert small.store.root.read("notes/about this store.txt") == b"mine"
    assert small.store.root.exists("notes/0123abcd.json")
    assert (small.store.root.local / "notes" / ".draft.tmp").exists()


@pytest.mark.parametrize("survived", [0, 1, 2, 3, 4, 5, 10, 25])
def test_a_clean_up_that_dies_leaves_nothing_half_there(small, survived):
    other = small.with_settings(rois={"max_rois": 5})
    other.make("correspondences")
    record_run(other, "20260102-b")
    left, delete = [survived], Folder.delete

    def die(folder, path):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        delete(folder, path)

    with mock.patch.object(Folder, "delete", die), pytest.raises(KeyboardInterrupt):
        collect(small.store, keep_runs=1)
    assert_whole(small.store)
    collect(small.store, keep_runs=1)
    assert find_garbage(small.store, ARTIFACTS).count == 0
    assert other.plan("correspondences").state is State.DONE


def test_in_a_bucket_uploads_that_did_not_end_go():
    with object_store("s3") as server:
        bucket = server.create_bucket("garbage")
        with reached_by(server.environment()):
            store = Store(Folder(bucket) / "store")
            store.prepare()
            store.write_part("scenes", "0123", 0, {"x": b"1"}, rows=1)
            direct = client(server)
            direct.create_multipart_upload(Bucket="garbage", Key="store/packed_scenes/k/images.bin")
            direct.create_multipart_upload(Bucket="garbage", Key="elsewhere/images.bin")
            garbage = find_garbage(store, ARTIFACTS)
            assert garbage.keys == {"scenes": ["0123"]}
            assert len(garbage.half_written) == 1
            delete_garbage(store, garbage)
            assert [info.path for info in store.root.files()] == ["orl_store.json"]
            uploads = direct.list_multipart_uploads(Bucket="garbage")["Uploads"]
            assert [upload["Key"] for upload in uploads] == ["elsewhere/images.bin"]


def test_a_small_store_of_another_config_is_named_by_its_own_run(tmp_path):
    small = SmallStore.new(tmp_path / "store", "generated.images=8", "generated.test_images=4", "mining.k=2")
    small.make("scenes")
    record_run(small, "20260101-a")
    assert find_garbage(small.store, ARTIFACTS).count == 0
    (small.store.root.local / "runs" / "20260101-a.json").unlink()
    garbage = find_garbage(small.store, ARTIFACTS)
    assert sorted(garbage.keys) == ["listing", "packed_scenes", "scenes"]
    assert len(garbage.folders) == 1  # the rendered scenes
