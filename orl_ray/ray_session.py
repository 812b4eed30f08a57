"""Connect to the cluster that a config names, or start a private Ray on this machine."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from orl_ray.cluster_probe import cluster_address
from orl_ray.config import Config

# Before Ray is imported: a stage that still calls Ray after it was shut down must fail, not start another Ray and wait.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# Descriptors, receipts, and the RoI vectors of the parts that are being matched pass through the object store.
_OBJECT_STORE_BYTES = 400 * 2**20


@contextlib.contextmanager
def ray_session(config: Config, run_id: str) -> Iterator[int]:
    """Enter a Ray session; yield the number of CPUs in it.

    Names of actors live in a namespace of the run's own, and the job's metadata tell its id: several runs on one
    cluster do not meet.

    The address comes from the config, then from ``RAY_ADDRESS`` (set inside a submitted job), else a private cluster
    is started, which dies with this process. A private cluster listens on loopback and, as Ray does by default, asks
    for its token.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    import ray
    from ray.job_config import JobConfig

    address = cluster_address(config)
    _set_up_libraries()
    common: dict[str, Any] = {
        "namespace": f"orl-{run_id}",
        "job_config": JobConfig(metadata={"orl_run": run_id, "orl_store": config.execution.store}),
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    if address:
        ray.init(address=address, **common)
    else:
        ray.init(
            address="local",
            num_cpus=config.execution.cpus or None,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **common,
        )
    _keep_sigterm_in_python()
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def _keep_sigterm_in_python() -> None:
    """Let SIGTERM end in an exit, as Ray's own handler in Python has it, and in nothing else.

    Ray's handler in C++, which comes before it, takes the signal for a crash: it prints a stack and sets an alarm that
    aborts the process 3 seconds later, in the middle of an orderly end.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _set_up_libraries() -> None:
    # Progress and errors reach people through our own lines; Ray's per-operator chatter would bury them.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
