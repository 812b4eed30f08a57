"""A training worker that refuses to go on: the driver is told why, and no other worker waits for it."""

import sys
import types
from types import SimpleNamespace

import pytest

from orl_ray.config import Execution
from orl_ray.leases import LeaseLostError
from orl_ray.pretraining import ray_trainer
from orl_ray.pretraining.ray_trainer import train_worker
from orl_ray.storage import Store


@pytest.fixture
def job(tmp_path):
    return SimpleNamespace(store=Store(tmp_path), output="object_level/0123", refusal="refused-3.txt")


@pytest.fixture
def worker(monkeypatch):
    """Return a function that runs a worker among so many, whose training does something."""

    def run(job, size, training):
        context = SimpleNamespace(get_world_size=lambda: size)
        train = types.SimpleNamespace(get_context=lambda: context)
        monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(train=train))
        monkeypatch.setitem(sys.modules, "ray.train", train)
        monkeypatch.setattr(ray_trainer, "_train", training)
        train_worker({"job": job})

    return run


def refusal(job):
    return job.store.root.read("checkpoints/object_level/0123/refused-3.txt").decode()


def raising(error):
    def training(_job):
        raise error

    return training


@pytest.mark.parametrize("error", [ValueError("too few pairs"), FloatingPointError("loss"), LeaseLostError("other")])
def test_the_only_worker_leaves_its_reason_and_ends(job, worker, error):
    worker(job, 1, raising(error))
    assert refusal(job) == f"{type(error).__name__}: {error}"


def test_one_of_several_fails_so_that_the_others_do_not_wait(job, worker):
    with pytest.raises(ValueError, match="too few pairs"):
        worker(job, 2, raising(ValueError("too few pairs")))
    assert "too few pairs" in refusal(job)


def test_after_a_refusal_nothing_is_trained_again(job, worker):
    worker(job, 1, raising(ValueError("too few pairs")))
    worker(job, 2, raising(AssertionError("it was trained again")))


def test_what_may_pass_is_left_to_ray(job, worker):
    with pytest.raises(ConnectionError):
        worker(job, 1, raising(ConnectionError("lost")))
    assert not job.store.root.exists("checkpoints/object_level/0123")


def test_fixed_workers_wait_for_their_turn_and_elastic_ones_count_anew():
    fixed, elastic = Execution(train_workers=4), Execution(train_workers=4, min_train_workers=2)
    assert ray_trainer._workers(fixed) == 4
    assert ray_trainer._workers(elastic) == (2, 4)
    for execution in (fixed, elastic):
        limits = ray_trainer._failures(execution)
        assert limits["max_failures"] == 3
        patience = ray_trainer._start_seconds(execution) * max(1, limits["controller_failure_limit"])
        assert patience >= 7 * 24 * 3600
    assert ray_trainer._start_seconds(elastic) == 60
