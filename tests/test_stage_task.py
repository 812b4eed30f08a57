"""Claims of memory: what can never start is told at once, with what to do."""

import sys
import threading
import types
from types import SimpleNamespace

import pytest

from orl_ray.cluster_probe import ClusterFacts, NodeGroup, memory_problem
from orl_ray.config import Config
from orl_ray.stage_task import outcome, require_memory

GB = 2.0**30


def facts(*nodes, groups=()):
    return ClusterFacts("", "", tuple({"memory": memory * GB} for memory in nodes), groups)


@pytest.mark.parametrize(("nodes", "wanted", "fits"), [((1, 4), 4, True), ((3, 3), 4, False), ((), 1, False)])
def test_one_node_must_have_it_all(nodes, wanted, fits):
    assert bool(memory_problem(facts(*nodes), wanted * GB)) is not fits


@pytest.mark.parametrize(("nodes", "fits"), [((8,), True), ((7,), False), ((5, 5), True), ((5, 3), False)])
def test_what_is_wanted_twice_at_once_must_fit_twice(nodes, fits):
    assert bool(memory_problem(facts(*nodes), 4 * GB, 2)) is not fits


@pytest.mark.parametrize(("more", "fits"), [(0, False), (1, False), (2, True), (-1, True)])
def test_what_an_autoscaler_may_add_makes_room(more, fits):
    grows = (NodeGroup({"memory": 4 * GB}, more=more),)
    assert bool(memory_problem(facts(4, groups=grows), 4 * GB, 3)) is not fits


def test_what_an_autoscaler_may_add_counts():
    large = NodeGroup({"memory": 8 * GB}, more=2)
    assert not memory_problem(facts(1, groups=(large,)), 8 * GB)
    assert memory_problem(facts(1, groups=(NodeGroup({"memory": 8 * GB}, more=0),)), 8 * GB)
    assert not memory_problem(facts(1, groups=None), 8 * GB)  # it does not tell


def test_a_claim_that_no_node_can_hold_is_refused_with_advice(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nodes = [{"Alive": True, "Resources": {"memory": 2 * GB}}, {"Alive": False, "Resources": {"memory": 64 * GB}}]
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(nodes=lambda: nodes))
    run = SimpleNamespace(config=Config(), plan=SimpleNamespace(stage=SimpleNamespace(title="pair regions")))
    require_memory(run, 2 * GB, "raise mining.shards")
    with pytest.raises(MemoryError, match=r"pair regions: 3.00 GB .* the largest has 2.00: raise mining.shards"):
        require_memory(run, 3 * GB, "raise mining.shards")


def test_the_end_of_the_run_ends_the_wait_for_a_task(monkeypatch):
    looks = []

    def wait(references, timeout):
        looks.append(timeout)
        run.stop.set()
        return [], references

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(wait=wait))
    run = SimpleNamespace(stop=threading.Event())
    with pytest.raises(InterruptedError, match="the run has ended"):
        outcome(run, "task")
    assert len(looks) == 1


def test_a_task_that_ends_later_is_waited_for(monkeypatch):
    looks = iter([[], [], ["task"]])
    fake = types.SimpleNamespace(wait=lambda _references, timeout: (next(looks), timeout), get=str.upper)
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert outcome(SimpleNamespace(stop=threading.Event()), "task") == "TASK"
