"""Ask a Ray cluster what it is and what it has, within seconds and before joining it.

``ray.init`` takes 20 s to say that it could not connect, and never says why: a wrong token, a wrong port and a dead
host look the same. The cluster's own service (GCS) answers the same questions within milliseconds.
"""

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orl_ray.config import Config, Execution

Resources = Mapping[str, float]
# How a problem begins that only a training has.
NO_ROOM = "no room"


class ClusterUnavailableError(RuntimeError):
    """A cluster does not answer as one that can be joined; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind that an autoscaler can start.

    Attributes:
        resources: resources of each.
        more: how many more of them it may start; -1 for any number.
    """

    resources: Resources
    more: int


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a cluster tells of itself.

    Attributes:
        ray_version: as in ``ray.__version__``, "" unknown.
        python_version: as in ``platform.python_version()``, "" unknown.
        nodes: resources of each node that is alive.
        groups: what its autoscaler may add; None where there may be an autoscaler that does not tell.
    """

    ray_version: str
    python_version: str
    nodes: tuple[Resources, ...]
    groups: tuple[NodeGroup, ...] | None = ()


def cluster_address(config: Config) -> str:
    """Return the address of the cluster that a config means: its own, then ``RAY_ADDRESS``; "" for a private one."""
    address = config.execution.ray_address or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def ask_cluster(address: str, seconds: float) -> ClusterFacts:
    """Ask the cluster at an address.

    Args:
        address: ``host:port`` of its GCS, or ``auto`` for the one that runs on this machine.
        seconds: how long it may take in all.

    Raises:
        ClusterUnavailableError: there is none, or it refuses our token, or the address means something else.
    """
    import grpc
    import ray.exceptions
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    place = _host_and_port(address)
    deadline = time.monotonic() + seconds
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as ray.init does
    try:
        return _ask(place, deadline)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterUnavailableError(
            f"RAY_AUTH_MODE is token, but there is no token here: {_HOW_TO_SHOW_IT}"
        ) from error
    except grpc.RpcError as error:
        raise ClusterUnavailableError(_explain(error.code().name, " ".join(error.details().split()))) from error


def version_problems(facts: ClusterFacts) -> list[str]:
    """Say where the cluster's Ray or Python are not ours; Ray refuses such drivers."""
    import ray

    exact = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch") == "patch"
    ours, theirs = platform.python_version(), facts.python_version
    if not exact:
        ours, theirs = (version.rpartition(".")[0] for version in (ours, theirs))
    pairs = {"Ray": (ray.__version__, facts.ray_version), "Python": (ours, theirs)}
    return [
        f"it runs {name} {found}, this process {name} {wanted}: use the same on both sides, "
        "or submit the job, which then runs with the cluster's own"
        for name, (wanted, found) in pairs.items()
        if found and wanted != found
    ]


def resource_problems(execution: Execution, facts: ClusterFacts) -> list[str]:
    """Say which resources for the training workers a cluster neither has nor can get.

    Args:
        execution: what the run wants.
        facts: what there is. What an autoscaler that does not tell its limits could start is not refused.
    """
    if facts.groups is None:
        return []
    worker = {"CPU": float(max(1, execution.train_cpus)), **({"GPU": 1.0} if execution.use_gpu else {})}
    places = sum(_fitting(node, worker) for node in facts.nodes)
    for group in facts.groups:
        fitting = _fitting(group.resources, worker)
        if fitting and group.more < 0:
            return []
        places += fitting * group.more
    least = execution.min_train_workers or execution.train_workers
    if places >= least:
        return []
    wanted = " and ".join(f"{count:g} {name}{'s' if count > 1 else ''}" for name, count in worker.items())
    has = ", ".join(f"{sum(node.get(name, 0) for node in facts.nodes):g} {name}s" for name in worker)
    grown = ", and what its autoscaler may add," if facts.groups else ""
    problem = (
        f"{NO_ROOM} for {least} training workers with {wanted} each: {has} in all{grown} make room "
        f"for {places}. Lower execution.{'min_' if execution.min_train_workers else ''}train_workers, "
        "execution.train_cpus or execution.use_gpu, or add nodes"
    )
    return [problem]


def memory_problem(facts: ClusterFacts, wanted: float, count: int = 1) -> str:
    """Say that nodes have not, and cannot have, so much memory, or "": Ray would wait for it without a word.

    Args:
        facts: what there is. What an autoscaler that does not tell its limits could start is not refused.
        wanted: bytes on one node.
        count: how often it is wanted at once.
    """
    if facts.groups is None:
        return ""
    nodes = [*facts.nodes, *(group.resources for group in facts.groups if group.more)]
    largest = max((node.get("memory", 0.0) for node in nodes), default=0.0)
    if wanted > largest:
        return f"{wanted / 2**30:.2f} GB of memory are needed on one node, the largest has {largest / 2**30:.2f}"
    room = float(sum(_fitting(node, {"memory": wanted}) for node in facts.nodes))
    for group in facts.groups:
        room += _fitting(group.resources, {"memory": wanted}) * (group.more if group.more >= 0 else math.inf)
    if room >= count:
        return ""
    return f"{wanted / 2**30:.2f} GB of memory are needed {count} times at once, the nodes have room for {room:g}"


def private_facts(execution: Execution) -> ClusterFacts:
    """Return what a private Ray on this machine would have; imports Ray only to count GPUs."""
    resources = {"CPU": float(execution.cpus or os.cpu_count() or 1)}
    if execution.use_gpu:
        from ray._private.accelerators import get_accelerator_manager_for_resource

        manager: Any = get_accelerator_manager_for_resource("GPU")
        found = manager.get_current_node_num_accelerators()
        visible = manager.get_current_process_visible_accelerator_ids()
        resources["GPU"] = float(found if visible is None else min(found, len(visible)))
    return ClusterFacts("", "", (resources,))


_HOW_TO_SHOW_IT = (
    "put the cluster's token into ~/.ray/auth_token, into the file that RAY_AUTH_TOKEN_PATH names, or into "
    "RAY_AUTH_TOKEN, which goes before them"
)
_ADDRESS_ADVICE = "it must be the host and port of the cluster's GCS (6379 unless ray start --port says otherwise)"


def _host_and_port(address: str) -> str:
    from ray._private import services

    scheme, separator, _ = address.partition("://")
    if separator:
        what = {"ray": "Ray Client", "http": "the job server", "https": "the job server"}.get(scheme, scheme)
        raise ClusterUnavailableError(
            f"this is an address of {what}, which a run cannot use: submit the job with ray job submit, or run it on a "
            f"node of the cluster and give host:port; {_ADDRESS_ADVICE}"
        )
    try:
        return str(services.canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, ValueError, OSError) as error:
        raise ClusterUnavailableError(f"{' '.join(str(error).split())}; {_ADDRESS_ADVICE}") from error


def _explain(code: str, details: str) -> str:
    if code == "UNAUTHENTICATED":
        from ray._private.authentication.authentication_utils import is_token_auth_enabled

        if is_token_auth_enabled():
            return f"it refuses our token: {_HOW_TO_SHOW_IT}"
        return f"it asks for a token: set RAY_AUTH_MODE=token, and {_HOW_TO_SHOW_IT}"
    if code == "DEADLINE_EXCEEDED":
        return f"it did not answer in time ({details}): is there a route to it, is it overloaded? {_ADDRESS_ADVICE}"
    return f"no Ray cluster answers there ({code.lower()}: {details}): {_ADDRESS_ADVICE}"


def _ask(place: str, deadline: float) -> ClusterFacts:
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

    channel: Any = init_grpc_channel(place, options=[("grpc.enable_http_proxy", 0)])  # as Ray's own connections

    def left() -> float:
        return max(0.1, deadline - time.monotonic())

    try:
        nodes = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        store = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)

        def value(namespace: bytes, key: bytes) -> bytes:
            request = gcs_service_pb2.InternalKVGetRequest(namespace=namespace, key=key)
            return bytes(store.InternalKVGet(request, timeout=left()).value)

        version = nodes.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=left()).ray_version
        listed = nodes.GetAllNodeInfo(gcs_service_pb2.GetAllNodeInfoRequest(), timeout=left()).node_info_list
        alive = [node for node in listed if node.state == gcs_pb2.GcsNodeInfo.ALIVE]
        metadata = json.loads(value(b"cluster", b"CLUSTER_METADATA") or b"{}")
        return ClusterFacts(
            ray_version=version,
            python_version=metadata.get("python_version", ""),
            nodes=tuple(dict(node.resources_total) for node in alive),
            groups=_groups(
                [node.node_type_name for node in alive],
                value(b"__autoscaler", b"__autoscaler_cluster_config"),
                value(b"__autoscaler", b"__autoscaler_v2_enabled"),
                value(b"", b"__autoscaling_status"),
            ),
        )
    finally:
        channel.close()


def _groups(present: list[str], config: bytes, version_2: bytes, status: bytes) -> tuple[NodeGroup, ...] | None:
    """Tell what an autoscaler may add, from what it leaves in the GCS; None where it may add we do not know what."""
    from ray.core.generated import autoscaler_pb2

    if config:
        groups = autoscaler_pb2.ClusterConfig.FromString(config).node_group_configs
        return tuple(
            NodeGroup(
                dict(group.resources),
                -1 if group.max_count < 0 else max(0, group.max_count - present.count(group.name)),
            )
            for group in groups
        )
    types = json.loads(status or b"{}").get("autoscaler_report", {}).get("node_type_mapping") or {}
    # Without an autoscaler its monitor still reports, and names each node's type after its id.
    named = any(name != f"node_{node_id}" for node_id, name in types.items())
    return None if version_2 == b"1" or named else ()


def _fitting(node: Resources, worker: Resources) -> int:
    return min(int(node.get(name, 0) // count) for name, count in worker.items())
