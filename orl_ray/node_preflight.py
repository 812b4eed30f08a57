"""Once Ray is joined: does every node see the store and the source?

Each living node proves it before the first stage. Nodes that join later are met by :func:`require_store`, which workers
call before their first part.
"""

import functools
import platform
from collections.abc import Sequence
from typing import Any

from orl_ray.checks import DEADLINE, Check, raise_problems, run_checks
from orl_ray.config import Config
from orl_ray.folders import Folder
from orl_ray.preflight import import_clients, probe, source_checks
from orl_ray.storage import MARKER, Store

# A node may have to fetch the job's files before it starts a first task.
_NODE_START = 60.0
_MOST_NAMED = 10


class StoreNotSeenError(RuntimeError):
    """A worker runs on a node that does not see the store."""


def check_nodes(config: Config, store: Store, run_id: str, *, source: bool) -> None:
    """Prove that every living node of the joined cluster sees the store's root and the source.

    The driver leaves a text under the root; a task on each node reads it back, and looks at the source.

    Args:
        config: the config.
        store: the store.
        run_id: this run.
        source: whether the run reads the source.

    Raises:
        PreflightError: names the nodes that do not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(look_from_here)
    nodes = {node["NodeID"]: _node_name(node) for node in ray.nodes() if node["Alive"]}
    by_problem: dict[str, list[str]] = {}
    with probe(store.root) as (name, token):
        refs = {}
        for node_id in nodes:
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            task = look.options(name=f"{run_id}-preflight", scheduling_strategy=here)
            refs[task.remote(config, store, name, token, source)] = node_id
        ended, late = ray.wait(list(refs), num_returns=len(refs), timeout=_NODE_START + DEADLINE)
        for ref in [*ended, *late]:
            for problem in _answer(ref, late=ref in late):
                by_problem.setdefault(problem, []).append(refs[ref])
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # what died meanwhile is no problem
    told = {problem: [nodes[node_id] for node_id in ids if node_id in alive] for problem, ids in by_problem.items()}
    raise_problems([f"{_named(names, len(nodes))}: {problem}" for problem, names in told.items() if names])


def look_from_here(config: Config, store: Store, name: str, token: bytes, source: bool) -> list[str]:
    """Look at the store and the source from the node that this runs on; return what is wrong.

    Args:
        config: the config.
        store: the store.
        name: the file that the driver left under the root.
        token: what is in it.
        source: whether to look at the source, too.
    """
    import_clients(config, store)
    seen = Check("store", str(store.root), functools.partial(_try_probe, store.root, name, token))
    return run_checks([seen, *(source_checks(config) if source else ())])


@functools.cache
def require_store(root: Folder) -> None:
    """Check, once a process, that this worker sees the store: its node may have joined after the preflight.

    Raises:
        StoreNotSeenError: it does not.
    """
    if not root.exists(MARKER):
        raise StoreNotSeenError(
            f"node {platform.node()} does not see the store {root}: mount it there, or take the node out of the cluster"
        )


def _try_probe(root: Folder, name: str, token: bytes) -> list[str]:
    try:
        same = root.read(name) == token
    except FileNotFoundError:
        same = False
    return [] if same else ["what the driver wrote is not there: mount the same storage on every node"]


def _answer(ref: Any, *, late: bool) -> list[str]:
    import ray

    if late:
        ray.cancel(ref, force=True)
        return [f"it did not start a first task within {_NODE_START:g} s"]
    try:
        problems: list[str] = ray.get(ref)
    except ray.exceptions.RayError as error:
        return [f"the check failed there: {' '.join(str(error).split())}"]
    return problems


def _node_name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, id {node['NodeID'][:8]})"


def _named(names: Sequence[str], total: int) -> str:
    if len(names) == 1:
        return f"node {names[0]}"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{len(names)} of {total} nodes, {', '.join(names[:_MOST_NAMED])}{more}"
