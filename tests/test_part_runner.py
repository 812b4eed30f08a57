"""Workers that make parts, without Ray: what they commit and what they refuse."""

import json
import threading

import pytest

from orl_ray.config import Config
from orl_ray.node_preflight import StoreNotSeenError
from orl_ray.part_runner import PartOutput, PartWorker, WorkerContext, _until_stopped, prepare_nothing
from orl_ray.storage import Store

ROW = {"index": 3, "key": "k", "inputs": json.dumps({"scenes": "s"})}


def prepared(folder):
    store = Store(folder)
    store.prepare()
    return store


def worker(store, output):
    def process(_context, _state, part):
        assert (part.index, part.key, part.inputs) == (3, "k", {"scenes": "s"})
        return output

    return PartWorker("rois", process, prepare_nothing, WorkerContext(Config(), store, {}))


def test_a_part_is_written_and_its_receipt_returned(tmp_path):
    store = prepared(tmp_path)
    output = PartOutput({"a": b"1"}, rows=2, quarantine=[(7, "x.jpg", "truncated")], environment={"opencv": "5"})
    assert worker(store, output)(ROW) == {"index": 3, "rows": 2, "quarantined": 1}
    record = store.record("rois", "k")
    assert (record.index, record.rows, record.quarantined) == (3, 2, 1)
    assert record.environment["opencv"] == "5"
    assert record.environment["device"] == "cpu"


def test_a_part_of_which_nothing_decodes_is_committed_empty(tmp_path):
    store = prepared(tmp_path)
    worker(store, PartOutput({"a": b""}, rows=0, quarantine=[(7, "x.jpg", "truncated")]))(ROW)
    assert store.record("rois", "k").quarantined == 1


def test_on_a_node_that_does_not_see_the_store_nothing_is_done(tmp_path):
    with pytest.raises(StoreNotSeenError, match=r"does not see the store .*/elsewhere: mount it there"):
        worker(Store(tmp_path / "elsewhere"), PartOutput({"a": b"1"}, rows=2))(ROW)
    assert list(tmp_path.iterdir()) == []


def listed(store, output):
    """A store whose part is made, and in a manifest."""
    worker(store, output)(ROW)
    store.write_manifest("rois", "all", [store.record("rois", "k")])


def makes_again(store, output):
    again = worker(store, output)
    again.context = WorkerContext(Config(), store, {}, manifest="all")
    again(ROW)


@pytest.mark.parametrize("files", [{"a": b"2"}, {"b": b"1"}, {"a": b"1", "b": b""}, {}])
def test_a_part_that_becomes_another_is_in_no_manifest_until_its_stage_lists_it(tmp_path, files):
    store = prepared(tmp_path)
    listed(store, PartOutput({"a": b"1"}, rows=2))
    makes_again(store, PartOutput(files, rows=2))
    assert store.manifest("rois", "all") is None


def test_a_part_that_two_runs_make_alike_stays_in_the_manifest_that_the_first_one_uses(tmp_path):
    store = prepared(tmp_path)
    listed(store, PartOutput({"a": b"1", "b": b"2"}, rows=2))
    written = {"b": store.write_part_file("rois", "k", "b", b"2", beside=True)}
    makes_again(store, PartOutput({"a": b"1"}, rows=2, written=written))
    assert [record.key for record in store.collection("rois", "all")] == ["k"]


class TestUntilStopped:
    def test_all_rows_come_in_order(self):
        assert list(_until_stopped(({"rows": i} for i in range(100)), threading.Event())) == [
            {"rows": i} for i in range(100)
        ]

    def test_an_error_of_ray_data_is_raised(self):
        def rows():
            yield {"rows": 1}
            raise OSError("a worker was lost")

        with pytest.raises(OSError, match="a worker was lost"):
            list(_until_stopped(rows(), threading.Event()))

    def test_the_end_of_the_run_ends_the_wait_for_a_row_that_does_not_come(self):
        stop, never = threading.Event(), threading.Event()
        rows = ({"rows": i, "_": i and never.wait()} for i in range(2))
        receipts = _until_stopped(rows, stop)
        assert next(receipts)["rows"] == 0
        stop.set()
        with pytest.raises(InterruptedError, match="the run has ended"):
            next(receipts)
        never.set()
