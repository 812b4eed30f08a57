"""Tasks of a stage that do their work in one go, on whichever node has room."""

from collections.abc import Callable
from typing import Any

from orl_ray.cluster_probe import ClusterFacts, ask_cluster, cluster_address, memory_problem
from orl_ray.execution import StageRun
from orl_ray.node_preflight import require_store

_ASK_SECONDS = 30.0
# A stage that waits for Ray looks this often whether the run has ended.
_LOOK_SECONDS = 0.5


def stage_task(run: StageRun, function: Callable[..., Any], *, num_gpus: float = 0, memory: float | None = None) -> Any:
    """Make a Ray task of a function: of one CPU, and with the run's id in its name, so that people find it.

    Args:
        run: the stage's run.
        function: reads and writes the store.
        num_gpus: GPUs that it takes.
        memory: bytes that it takes, None where it takes little.

    Returns:
        What ``ray.remote`` returns. The task raises :class:`~orl_ray.node_preflight.StoreNotSeenError` on a node that
        does not see the store.
    """
    import ray

    if memory is not None:
        require_memory(run, memory, "take a larger machine")
    root = run.store.root

    def on_node(*arguments: Any) -> Any:
        require_store(root)
        return function(*arguments)

    options = {"num_cpus": 1, "num_gpus": num_gpus, "memory": memory, "name": f"{run.run_id}-{run.plan.stage.name}"}
    return ray.remote(**options)(on_node)


def outcome(run: StageRun, reference: Any) -> Any:
    """Wait for what a task returns, or for the end of the run.

    ``ray.get`` alone may never return in a thread once the main thread has shut Ray down.

    Args:
        run: the stage's run.
        reference: the reference that ``remote`` returned.

    Returns:
        What the task returned.

    Raises:
        InterruptedError: the run has ended.
        Exception: whatever the task raised.
    """
    import ray

    while not ray.wait([reference], timeout=_LOOK_SECONDS)[0]:
        if run.stop.is_set():
            raise InterruptedError("the run has ended")
    return ray.get(reference)


def require_memory(run: StageRun, wanted: float, advice: str, count: int = 1) -> None:
    """Check that a task or actor which claims so much memory can ever start.

    Args:
        run: the stage's run.
        wanted: bytes on one node.
        advice: what to do where they are not there.
        count: tasks or actors of this kind that are there at once.

    Raises:
        MemoryError: the nodes have not so much, and none can come that have.
    """
    import ray

    address = cluster_address(run.config)
    if address:
        facts = ask_cluster(address, _ASK_SECONDS)
    else:
        facts = ClusterFacts("", "", tuple(node["Resources"] for node in ray.nodes() if node["Alive"]))
    problem = memory_problem(facts, wanted, count)
    if problem:
        raise MemoryError(f"{run.plan.stage.title}: {problem}: {advice}")
