"""Does a worker stand idle while parts wait? Parts that sleep, on clusters of nodes with one CPU each.

The parts go through the stages' own ``run_parts``. Each sleeps for a drawn time and notes when and where it did; its
record keeps that. Sleeping takes no CPU, so that several nodes fit on one machine, and every gap between two parts of a
node is Ray's, or that of writing a part.

They go as those of the stage ``proposals`` go: to actors, where the next part waits at the worker. Given to plain
tasks, the gap is 100 to 200 ms, because Ray Data 2.60 looks for news every 0.1 s and queues no tasks.
"""

import multiprocessing
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orl_ray import draws
from orl_ray.config import Config, Execution
from orl_ray.execution import StageRun
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import PartPlan, Stage, StagePlan, State
from orl_ray.progress import Console, StageProgress
from orl_ray.proposals.stages import load_kernels
from orl_ray.ray_session import ray_session
from orl_ray.storage import Store

ARTIFACT = "proposals"
SHORTEST_SLEEP, LONGEST_SLEEP = 0.3, 0.9
_OBJECT_STORE_BYTES = 100 * 2**20
_DEADLINE = 600.0


@dataclass(frozen=True, slots=True)
class Event:
    """A part's sleep.

    Attributes:
        start: when it began, seconds on this machine's monotonic clock.
        end: when it ended.
        node: the id of the node.
    """

    start: float
    end: float
    node: str


def idle_gaps(events: Sequence[Event]) -> list[float]:
    """List how long nodes did nothing while parts waited, since their first part.

    A part waits until it begins, so parts wait until the last one has begun. A node that ends its last part before that
    is idle from there on.

    Args:
        events: of all parts.

    Returns:
        Seconds of each gap between two parts of a node, and between a node's last part and the last part's begin.
    """
    last_start = max(event.start for event in events)
    gaps = []
    for node in {event.node for event in events}:
        own = sorted((event for event in events if event.node == node), key=lambda event: event.start)
        starts = [event.start for event in own[1:]] + [last_start]
        gaps += [start - event.end for start, event in zip(starts, own, strict=True)]
    return [gap for gap in gaps if gap > 0]  # not of nodes that were busy when the last part began


def sleeping_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Sleep as long as a draw says."""
    import ray

    key = draws.stream(context.config.seed, "benchmark", "sleep")
    share = float(draws.uniform(key, np.array([part.index], np.int64), 1)[0, 0])
    start = time.monotonic()
    time.sleep(SHORTEST_SLEEP + share * (LONGEST_SLEEP - SHORTEST_SLEEP))
    facts = {"start": start, "end": time.monotonic(), "node": ray.get_runtime_context().get_node_id()}
    return PartOutput({"nothing": b""}, rows=1, facts=facts)


def no_work(_run: StageRun) -> None:
    """Stand in for the work of a stage that is run from outside."""


def measure(nodes: int, parts: int) -> dict[str, Any]:
    """Let parts sleep on a cluster of its own, in a process of its own.

    Args:
        nodes: nodes of one CPU each.
        parts: how many.

    Returns:
        ``nodes``; ``nodes_used``; ``gap_ms_median`` and ``gap_ms_longest`` of :func:`idle_gaps`; ``idle_share``, their
        sum over the time from each node's first part to the last part's begin; ``first_part_seconds``, from the start
        of the stage to each node's first part, the latest; ``seconds`` of the stage; ``seconds_asleep`` of all parts.
    """
    with (
        tempfile.TemporaryDirectory(prefix="orl") as folder,
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        return pool.apply_async(_measure_here, (nodes, parts, folder)).get(_DEADLINE)


def _measure_here(nodes: int, parts: int, folder: str) -> dict[str, Any]:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    # A cluster whose files and token are its own; its workers import this module.
    own = {"RAY_TMPDIR": folder, "HOME": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(own, RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=str(Path(__file__).parents[1]))
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": _OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        store = Store(Path(folder) / "store")
        store.prepare()
        config = Config(execution=Execution(store=str(store.root), ray_address=cluster.address))
        plan = _sleeping_plan(parts)
        with ray_session(config, "sleep") as cpus:
            progress = StageProgress(Console(sys.stderr), plan.stage.title, parts, plan.stage.unit)
            started = time.monotonic()
            run_parts(StageRun(config, store, plan, "sleep", cpus, progress), sleeping_part, prepare=load_kernels)
            seconds = time.monotonic() - started
        records = store.records(ARTIFACT, {part.key: part.index for part in plan.missing})
        events = [Event(**record.facts) for record in records.values()]
    finally:
        cluster.shutdown()
    return _figures(events, nodes, started, seconds)


def _sleeping_plan(parts: int) -> StagePlan:
    stage = Stage(ARTIFACT, "sleep", 1, (), (), no_work, unit="parts")
    missing = tuple(PartPlan(index, f"sleep-{index}") for index in range(parts))
    return StagePlan(stage, State.RUN, "", wanted=missing, missing=missing)


def _figures(events: list[Event], nodes: int, started: float, seconds: float) -> dict[str, Any]:
    firsts = {event.node: event.start for event in sorted(events, key=lambda event: -event.start)}
    gaps, last_start = idle_gaps(events), max(event.start for event in events)
    watched = sum(last_start - first for first in firsts.values())
    return {
        "nodes": nodes,
        "nodes_used": len(firsts),
        "gap_ms_median": round(1000 * statistics.median(gaps or [0.0]), 1),
        "gap_ms_longest": round(1000 * max(gaps, default=0.0), 1),
        "idle_share": round(sum(gaps) / watched, 4) if watched else 0.0,
        "first_part_seconds": round(max(firsts.values()) - started, 2),
        "seconds": round(seconds, 2),
        "seconds_asleep": round(sum(event.end - event.start for event in events), 2),
    }
