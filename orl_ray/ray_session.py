"""Connect to the cluster that a config names, or start a private Ray on this machine."""

import contextlib
import logging
import os
from collections.abc import Iterator

from orl_ray.config import Config

# Descriptors, receipts, and the RoI vectors of the parts that are being matched pass through the object store.
_OBJECT_STORE_BYTES = 400 * 2**20


@contextlib.contextmanager
def ray_session(config: Config) -> Iterator[int]:
    """Enter a Ray session; yield the number of CPUs in it.

    The address comes from the config, then from ``RAY_ADDRESS`` (set inside a submitted job), else a private cluster
    is started, which dies with this process. A private cluster listens on loopback and, as Ray does by default, asks
    for its token.

    Raises:
        ConnectionError: there is no cluster at the address.
        RuntimeError: GPUs are asked for and the private cluster has too few.
    """
    import ray

    address = config.execution.ray_address or os.environ.get("RAY_ADDRESS", "")
    _quiet_libraries()
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            num_cpus=config.execution.cpus or None,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
        )
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if config.execution.use_gpu and not address and gpus < config.execution.train_workers:
            wanted = config.execution.train_workers
            raise RuntimeError(f"execution.use_gpu wants {wanted} GPUs for training, this machine has {gpus}")
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def _quiet_libraries() -> None:
    # Progress and errors reach people through our own lines; Ray's per-operator chatter would bury them.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
