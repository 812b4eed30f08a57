"""The store: what is whole exists, what is changed is refused, and equal content has equal bytes."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray import schema, storage
from orl_ray.folders import Folder
from orl_ray.storage import (
    TABLE,
    PartRecord,
    Store,
    StoreError,
    canonical_digest,
    digest,
    digest_file,
    ipc_bytes,
    new_run_id,
    parquet_bytes,
)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def listing(ids):
    return pa.table([list(ids), [i % 3 for i in ids]], schema=schema.SHARDS)


def nested(rows):
    """Return a table with nulls, lists, boxes, vectors and strings."""
    boxes = [[[i, j, 1, 2] for j in range(i % 3)] for i in range(rows)]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 2).astype(np.float16)), 2)
    return pa.table(
        {
            "image_id": pa.array(range(rows), pa.int64()),
            "path": pa.array([f"{i % 2}/{i}.jpg" for i in range(rows)]),
            "boxes": pa.array(boxes, pa.list_(pa.list_(pa.int32(), 4))),
            "levels": pa.array([None if i % 2 else [i] for i in range(rows)], pa.list_(pa.int16())),
            "vector": vectors,
        }
    )


def cut(table, places):
    """Return the same rows in chunks that end at ``places``."""
    bounds = [0, *sorted(places), len(table)]
    return pa.concat_tables([table.slice(a, b - a) for a, b in itertools.pairwise(bounds)])


class TestDigests:
    def test_a_file_hashes_like_its_bytes(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"content" * 100_000)
        assert digest_file(path) == digest(path.read_bytes())

    def test_are_pinned(self):
        # Keys in stores depend on these digits.
        assert digest(b"") == "cae66941d9efbd404e4d88758ea67670"
        assert canonical_digest({"b": 1, "a": [1.5, None]}) == digest(b'{"a":[1.5,null],"b":1}')

    def test_do_not_depend_on_the_order_of_names(self):
        assert canonical_digest({"a": 1, "b": 2}) == canonical_digest({"b": 2, "a": 1})
        assert canonical_digest([1, 2]) != canonical_digest([2, 1])

    def test_refuse_what_is_not_a_number(self):
        with pytest.raises(ValueError):
            canonical_digest(float("nan"))


class TestKilledWriters:
    def test_a_process_killed_while_writing_leaves_no_part(self, store):
        code = (
            "import os, signal, sys; from orl_ray import storage; "
            "storage.Store.write_json = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
            "storage.Store(sys.argv[1]).write_part('rois', 'k', 0, {'a': b'1'}, rows=1)"
        )
        run = subprocess.run([sys.executable, "-c", code, store.root.uri], check=False)
        assert run.returncode == -9
        assert (store.part_folder("rois", "k").local / "a").is_file()
        assert store.record("rois", "k") is None


class TestParts:
    def test_a_part_is_read_back_with_its_record(self, store):
        written = store.write_part(
            "listing",
            "key",
            3,
            {TABLE: parquet_bytes(listing([1, 5])), "notes.txt": b"hello"},
            rows=2,
            quarantine=[(9, "9.jpg", "broken"), (2, "2.jpg", "missing file")],
            seconds=1.23456,
            environment={"numpy": "2"},
            facts={"pairs": 7},
        )
        assert store.record("listing", "key") == written
        assert (written.index, written.rows, written.quarantined, written.facts) == (3, 2, 2, {"pairs": 7})
        assert written.bytes == len(parquet_bytes(listing([1, 5]))) + 5
        assert store.read_table("listing", "key").equals(listing([1, 5]))
        assert store.read_file("listing", "key", "notes.txt") == b"hello"
        assert store.quarantine("listing", "key")["image_id"].to_pylist() == [2, 9]

    def test_what_was_never_written_does_not_exist(self, store):
        assert store.record("rois", "none") is None
        assert store.records("rois", ["none"]) == {}
        assert store.manifest("rois", "none") is None
        assert store.quarantine("rois", "none").num_rows == 0
        with pytest.raises(StoreError, match=r"rois none: no file part\.parquet; run the pipeline again"):
            store.read_table("rois", "none")

    def test_a_file_that_the_record_does_not_name_is_not_read(self, store):
        store.write_part("rois", "k", 0, {"a": b"1"}, rows=1)
        (store.part_folder("rois", "k").local / "b").write_bytes(b"foreign")
        with pytest.raises(StoreError, match="no file b"):
            store.read_file("rois", "k", "b")

    @pytest.mark.parametrize(("name", "write"), [(TABLE, parquet_bytes), ("a.arrow", ipc_bytes)])
    def test_a_column_that_a_table_lacks_is_refused(self, store, name, write):
        store.write_part("shards", "k", 0, {name: write(listing([1, 2]))}, rows=2)
        assert store.read_table("shards", "k", name, columns=["shard"]).column_names == ["shard"]
        with pytest.raises(StoreError, match="no column box"):
            store.read_table("shards", "k", name, columns=["shard", "box"])

    @pytest.mark.parametrize("name", ["a", "b"])
    def test_a_tampered_file_is_refused(self, store, name):
        store.write_part("rois", "k", 0, {"a": b"1" * 50, "b": b"2" * 50}, rows=1)
        path = store.part_folder("rois", "k").local / name
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreError, match=rf"{name} is gone or changed .* delete k\.json and run again"):
            store.read_file("rois", "k", name)

    def test_a_crash_between_files_and_record_leaves_no_part_and_a_second_try_writes_it(self, store, monkeypatch):
        monkeypatch.setattr(Store, "write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            store.write_part("rois", "k", 0, {"a": b"1"}, rows=1, quarantine=[(1, "1.jpg", "broken")])
        assert store.record("rois", "k") is None
        assert store.records("rois", ["k"]) == {}
        with pytest.raises(StoreError):
            store.read_file("rois", "k", "a")
        monkeypatch.undo()
        store.write_part("rois", "k", 0, {"a": b"1"}, rows=1)
        assert store.read_file("rois", "k", "a") == b"1"
        assert store.quarantine("rois", "k").num_rows == 0  # that of the first try is gone

    def test_the_record_is_written_after_the_files_and_the_quarantine(self, store, monkeypatch):
        order = []
        monkeypatch.setattr(Folder, "write", lambda _self, path, _data: order.append(path))
        store.write_part("rois", "k", 0, {"a": b"1", "b": b"2"}, rows=1, quarantine=[(1, "1.jpg", "broken")])
        assert order == ["rois/k/a", "rois/k/b", "quarantine/rois/k.parquet", "rois/k.json"]

    def test_writing_a_part_twice_changes_nothing(self, store):
        first = store.write_part("rois", "k", 0, {"a": b"1"}, rows=1)
        assert store.write_part("rois", "k", 0, {"a": b"1"}, rows=1) == first
        assert sorted(store.root.names("rois")) == ["k", "k.json"]

    def test_the_content_hash_tells_names_and_bytes_apart_but_neither_key_nor_time(self, store):
        def content(key, files, **more):
            return store.write_part("rois", key, 0, files, rows=1, **more).content_hash

        same = content("k1", {"a": b"1", "b": b"2"})
        assert content("k2", {"b": b"2", "a": b"1"}, seconds=9, environment={"torch": "3"}, facts={"n": 1}) == same
        assert content("k3", {"a": b"2", "b": b"1"}) != same
        assert content("k4", {"a": b"1"}) != same

    def test_present_lists_what_was_written(self, store):
        assert store.present("rois") == set()
        for key in ("a", "b.c"):
            store.write_part("rois", key, 0, {"f": b"1"}, rows=1)
        store.write_manifest("rois", "whole", [])
        assert store.present("rois") == {"a", "b.c"}

    def test_records_finds_those_of_the_keys_that_exist(self, store):
        for index, key in enumerate("abc"):
            store.write_part("rois", key, index, {"f": key.encode()}, rows=index)
        found = store.records("rois", ["c", "missing", "a"])
        assert {key: record.rows for key, record in found.items()} == {"c": 2, "a": 0}


class TestManifests:
    def test_list_records_in_part_order(self, store):
        records = [store.write_part("rois", f"k{i}", i, {"f": b"x"}, rows=i) for i in (2, 0, 1)]
        store.write_manifest("rois", "whole", records)
        read = store.manifest("rois", "whole")
        assert [record.index for record in read] == [0, 1, 2]
        assert set(map(type, read)) == {PartRecord}
        assert read[2] == records[0]

    def test_do_not_mix_with_records(self, store):
        record = store.write_part("rois", "k", 0, {"f": b"x"}, rows=1)
        store.write_manifest("rois", "k", [record])
        assert store.records("rois", ["k", "manifests"]) == {"k": record}


class TestBytes:
    @given(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=5))
    def test_parquet_bytes_do_not_depend_on_the_chunking(self, rows, places):
        table = nested(rows)
        assert bytes(parquet_bytes(cut(table, [min(place, rows) for place in places]))) == bytes(parquet_bytes(table))

    @given(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=5))
    def test_ipc_bytes_do_not_depend_on_the_chunking(self, rows, places):
        table = nested(rows)
        assert bytes(ipc_bytes(cut(table, [min(place, rows) for place in places]))) == bytes(ipc_bytes(table))

    @pytest.mark.parametrize("rows", [0, 1, 9000])
    def test_parquet_of_many_row_groups_reads_back(self, rows):
        table = nested(rows)
        assert pq.read_table(pa.BufferReader(parquet_bytes(table))).equals(table)
        assert bytes(parquet_bytes(cut(table, [rows // 2]))) == bytes(parquet_bytes(table))

    def test_parquet_bytes_of_columns_of_several_pages_do_not_depend_on_the_chunking(self):
        # Pages are cut about every MiB, where a batch of rows ends: chunks would move these places.
        numbers = np.random.default_rng(0).standard_normal(1500 * 512).astype(np.float16)
        table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(numbers), 512)})
        assert bytes(parquet_bytes(cut(table, [3, 700, 701]))) == bytes(parquet_bytes(table))

    def test_a_slice_is_written_without_the_rows_around_it(self):
        whole = nested(12)
        alone = pa.Table.from_pylist(whole.slice(3, 4).to_pylist(), schema=whole.schema)
        assert bytes(parquet_bytes(whole.slice(3, 4))) == bytes(parquet_bytes(alone))

    def test_ipc_reads_back_and_is_uncompressed(self, store):
        table = nested(7)
        store.write_part("rois", "k", 0, {"shard-00000.arrow": ipc_bytes(table)}, rows=7)
        assert store.read_table("rois", "k", "shard-00000.arrow").equals(table)
        assert np.arange(14).astype(np.float16).tobytes() in bytes(ipc_bytes(table))


class TestPreparing:
    def test_a_new_folder_becomes_a_store_and_is_accepted_again(self, tmp_path):
        store = Store(tmp_path / "deep" / "store")
        store.prepare()
        store.prepare()
        assert store.read_json("orl_store.json") == {"version": schema.STORE_VERSION}

    def test_an_empty_folder_becomes_a_store(self, tmp_path):
        Store(tmp_path).prepare()
        assert (tmp_path / "orl_store.json").is_file()

    def test_a_foreign_folder_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "holiday.jpg").write_bytes(b"x")
        with pytest.raises(StoreError, match="not empty and not a store"):
            Store(tmp_path).prepare()
        assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]

    @pytest.mark.parametrize("version", [0, schema.STORE_VERSION + 1, None])
    def test_a_store_of_another_version_is_refused(self, store, version):
        (store.root.local / "orl_store.json").write_text(json.dumps({"version": version}))
        with pytest.raises(StoreError, match=f"store of version {version}; this orl_ray reads and writes version"):
            store.prepare()

    def test_a_store_that_moved_is_still_whole(self, store, tmp_path):
        store.write_part("listing", "k", 0, {TABLE: parquet_bytes(listing([1]))}, rows=1)
        moved = tmp_path / "elsewhere" / "renamed"
        shutil.move(store.root.local, moved)
        Store(moved).prepare()
        assert Store(moved).read_table("listing", "k").equals(listing([1]))

    def test_no_file_names_the_place_of_the_store(self, store):
        record = store.write_part("listing", "k", 0, {TABLE: parquet_bytes(listing([1]))}, rows=1)
        store.write_manifest("listing", "k", [record])
        places = str(store.root).encode()
        assert not [path for path in store.root.local.rglob("*") if path.is_file() and places in path.read_bytes()]


class TestRuns:
    def test_are_read_newest_first_and_up_to_a_limit(self, store):
        for number in range(5):
            store.write_run(f"20260101T00000{number}-abc", {"run_id": number})
        assert [run["run_id"] for run in store.runs()] == [4, 3, 2, 1, 0]
        assert [run["run_id"] for run in store.runs(limit=2)] == [4, 3]

    def test_there_are_none_in_a_new_store(self, store):
        assert list(store.runs()) == []

    def test_ids_sort_by_time_and_differ(self, monkeypatch):
        early = new_run_id()
        later = storage.time.gmtime(storage.time.time() + 60)
        monkeypatch.setattr(storage.time, "gmtime", lambda: later)
        assert early < new_run_id()
        assert len({new_run_id() for _ in range(50)}) == 50


def test_a_collection_whose_manifest_is_gone_is_no_empty_one(tmp_path):
    store = Store(tmp_path / "store")
    record = store.write_part("scenes", "0123", 0, {}, rows=3)
    with pytest.raises(StoreError, match="scenes: manifest abcd is gone"):
        store.collection("scenes", "abcd")
    store.write_manifest("scenes", "abcd", [record])
    assert store.collection("scenes", "abcd") == [record]
