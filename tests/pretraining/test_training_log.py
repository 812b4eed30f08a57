"""The log of a training: readable while it grows, on a disk and in a bucket, and never longer than its history."""

import json
from pathlib import Path

import pytest

from orl_ray.leases import Lease, LeaseLostError
from orl_ray.pretraining import training_log
from orl_ray.pretraining.training_log import TrainingLog, log_folder, log_place
from orl_ray.storage import Store

OUTPUT = "image_level/abc"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def fence(store):
    with Lease(store, OUTPUT, promise=30, run_id="test") as lease:
        yield lease.fence


def entry(step, loss=1.5):
    return {"step": step, "epoch": step / 4, "loss": loss}


def lines(store):
    text = log_folder(store, OUTPUT).read("measurements.jsonl").decode()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_each_entry_is_a_line_at_once_in_the_file_that_a_reader_has_open(store, fence):
    log = TrainingLog(store, OUTPUT, fence)
    log.write(entry(1))
    with Path(log_place(store, OUTPUT)).open() as follower:
        assert json.loads(follower.readline()) == entry(1)
        log.write(entry(2), ["Something is wrong."])
        assert json.loads(follower.readline()) == entry(2) | {"warnings": ["Something is wrong."]}
    log.close()
    assert len(lines(store)) == 2


def test_a_training_that_goes_on_drops_what_it_is_about_to_repeat(store, fence):
    killed = TrainingLog(store, OUTPUT, fence)
    for step in (1, 2, 3, 4):
        killed.write(entry(step, loss=9.0), ["old"] if step == 2 else [])
    resumed = TrainingLog(store, OUTPUT, fence)
    assert resumed.before(3) == [entry(1, 9.0), entry(2, 9.0)]
    resumed.write(entry(3))
    assert [(line["step"], line["loss"]) for line in lines(store)] == [(1, 9.0), (2, 9.0), (3, 1.5)]
    assert lines(store)[1]["warnings"] == ["old"]


def test_a_line_that_a_killed_writer_left_half_is_dropped(store, fence):
    TrainingLog(store, OUTPUT, fence).write(entry(1))
    with (log_folder(store, OUTPUT).local / "measurements.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    TrainingLog(store, OUTPUT, fence).write(entry(3))
    assert [line["step"] for line in lines(store)] == [1, 3]


def test_who_lost_the_lease_writes_nothing(store, fence):
    log = TrainingLog(store, OUTPUT, fence - 1)
    with pytest.raises(LeaseLostError):
        log.write(entry(1))
    assert not log_folder(store, OUTPUT).exists()


def test_numbers_that_json_has_no_word_for_are_refused(store, fence):
    with pytest.raises(ValueError, match="JSON compliant"):
        TrainingLog(store, OUTPUT, fence).write(entry(1, loss=float("nan")))


def test_in_a_bucket_the_log_is_written_anew_now_and_then_and_at_the_end(bucket, monkeypatch):
    store = Store(bucket)
    with Lease(store, OUTPUT, promise=30, run_id="test") as lease:
        log = TrainingLog(store, OUTPUT, lease.fence)
        log.write(entry(1))
        log.write(entry(2))
        assert [line["step"] for line in lines(store)] == [1]
        monkeypatch.setattr(training_log, "_REWRITE_SECONDS", 0)
        log.write(entry(3))
        assert [line["step"] for line in lines(store)] == [1, 2, 3]
        monkeypatch.setattr(training_log, "_REWRITE_SECONDS", 1000)
        log.write(entry(4))
        log.close()
        assert [line["step"] for line in lines(store)] == [1, 2, 3, 4]
        assert TrainingLog(store, OUTPUT, lease.fence).before(3) == [entry(1), entry(2)]
