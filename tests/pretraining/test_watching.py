"""What becomes of measurements: people are told once, trackers may fail, and the driver shows what the worker left."""

import io
import json
from pathlib import Path

import pytest

from orl_ray.leases import Lease
from orl_ray.pretraining.collapse import SIGNS
from orl_ray.pretraining.store_checkpoints import checkpoint_folder
from orl_ray.pretraining.training_log import TrainingLog, log_place
from orl_ray.pretraining.watching import ProgressReader, Watcher
from orl_ray.progress import Console, StageProgress
from orl_ray.storage import Store

OUTPUT = "image_level/abc"


class Recorder:
    """A tracker in memory, which may fail from a step on."""

    def __init__(self, fails_at=10**9):
        self.seen, self.closed, self.fails_at = [], False, fails_at

    def log(self, step, values):
        if step >= self.fails_at:
            raise ConnectionError("the server is gone")
        self.seen.append((step, dict(values)))

    def close(self):
        self.closed = True


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def watcher(store):
    """Return a function that makes a watcher."""
    with Lease(store, OUTPUT, promise=30, run_id="test") as lease:

        def make(*trackers):
            log = TrainingLog(store, OUTPUT, lease.fence)
            return Watcher("image_level", checkpoint_folder(store, OUTPUT), log, trackers)

        yield make


def entry(step, **more):
    spread = 0.9 if step == 1 else 0.02
    return {"step": step, "epoch": step / 4, "loss": 1.5, "feature_std": spread, "workers": 1, **more}


def told(store):
    lines = [json.loads(line) for line in Path(log_place(store, OUTPUT)).read_text().splitlines()]
    return {line["step"]: line["warnings"] for line in lines if "warnings" in line}


def test_trackers_get_every_logged_step_and_its_numbers(watcher):
    recorder = Recorder()
    watch = watcher(recorder)
    watch(1, 3, entry(1))
    watch(2, 3, {})
    watch(3, 3, entry(3))
    watch.close()
    assert [step for step, _ in recorder.seen] == [1, 3]
    assert recorder.seen[0][1] == {"epoch": 0.25, "loss": 1.5, "feature_std": 0.9, "workers": 1}
    assert recorder.closed


def test_a_collapse_is_told_once_even_by_a_worker_that_was_started_again(watcher, store):
    sign = {SIGNS[0].name: 1.0}
    watch = watcher()
    for step, more in ((1, {}), (2, sign), (3, sign)):
        watch(step, 9, entry(step, **more))
    watcher()(4, 9, entry(4, **sign))
    assert list(told(store)) == [2]
    assert "The features are collapsing" in told(store)[2][0]


def test_a_tracker_that_fails_is_left_out_and_told_while_the_others_go_on(watcher, store):
    failing, other = Recorder(fails_at=2), Recorder()
    watch = watcher(failing, other)
    for step in (1, 2, 3):
        watch(step, 3, entry(step))
    watch.close()
    assert [step for step, _ in failing.seen] == [1]
    assert [step for step, _ in other.seen] == [1, 2, 3]
    assert (failing.closed, other.closed) == (False, True)
    assert told(store) == {2: ["Recorder is not told any more from step 2 on: the server is gone"]}


def test_the_driver_shows_how_far_it_is_and_each_warning_once(watcher, store):
    out = io.StringIO()
    progress = StageProgress(Console(out), "pre-train on images", 0, "steps")
    reader = ProgressReader(progress, checkpoint_folder(store, OUTPUT))
    reader.look()  # nothing is there yet
    watch = watcher()
    watch(1, 8, entry(1))
    reader.look()
    assert (progress.done, progress.total) == (1, 8)
    watch(7, 8, {})
    watch(8, 8, entry(8, **{SIGNS[0].name: 1.0}))  # the last step is never held back
    reader.look()
    reader.look()
    assert (progress.done, progress.total) == (8, 8)
    assert out.getvalue().count("pre-train on images: warning: The features are collapsing") == 1


def test_what_an_earlier_worker_left_is_not_shown(watcher, store):
    watcher()(8, 8, entry(8))
    progress = StageProgress(Console(io.StringIO()), "t", 0, "steps")
    ProgressReader(progress, checkpoint_folder(store, OUTPUT)).look()
    assert progress.done == 0
