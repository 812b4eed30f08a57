"""Runs are at a store side by side; housekeeping is there alone."""

import os
import signal
import subprocess
import sys

import pytest

from orl_ray.occupancy import RUN_LEASES, StoreBusyError, alone, at_work
from orl_ray.storage import Store

STAY = (
    "import sys, time; from orl_ray import occupancy; from orl_ray.storage import Store\n"
    "with getattr(occupancy, sys.argv[2])(Store(sys.argv[1]), 'child', 3600):\n"
    "    print('here', flush=True); time.sleep(600)\n"
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def child(store):
    """Start another process that is at the store, as a run or for housekeeping."""
    started = []

    def start(how):
        command = [sys.executable, "-c", STAY, store.root.uri, how]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline().strip() == "here"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_runs_do_not_mind_each_other(store, child):
    child("at_work")
    with at_work(store, "a", 30), at_work(store, "b", 30):
        assert (store.root / RUN_LEASES).names() == {"a", "b", "child"}
    assert (store.root / RUN_LEASES).names() == {"child"}


def test_housekeeping_waits_for_no_run_but_names_it(store, child):
    child("at_work")
    with pytest.raises(StoreBusyError, match="in use by child: wait for the end"), alone(store, "gc", 30):
        pass


def test_a_run_does_not_start_while_somebody_cleans(store, child):
    child("alone")
    with pytest.raises(StoreBusyError, match="is being cleaned by child"), at_work(store, "a", 30):
        pass
    assert (store.root / RUN_LEASES).names() == set()


def test_two_do_not_clean_at_once(store, child):
    child("alone")
    with pytest.raises(StoreBusyError, match="is being cleaned, by child: wait"), alone(store, "gc", 30):
        pass


@pytest.mark.parametrize("how", ["at_work", "alone"])
def test_the_dead_keep_nobody_out(store, child, how):
    process = child(how)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with alone(store, "gc", 30):
        pass
    with at_work(store, "a", 30):
        pass


def test_an_error_inside_leaves_the_store_free(store):
    with pytest.raises(RuntimeError, match="failed"), at_work(store, "a", 30):
        raise RuntimeError("failed")
    with pytest.raises(RuntimeError, match="failed"), alone(store, "gc", 30):
        raise RuntimeError("failed")
    with alone(store, "gc", 30):
        pass
