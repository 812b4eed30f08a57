"""Ray actors that each hold one shard in memory: an image index for neighbours, RoI vectors for correspondences.

An actor reads what it needs from the store in its constructor, so it can be lost and rebuilt at any time. Its calls
change nothing, so a call that is repeated after a loss is harmless.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from orl_ray.execution import StageRun
from orl_ray.stage_task import require_memory


@contextlib.contextmanager
def shard_actors(
    actor: type,
    run: StageRun,
    manifests: dict[str, str],
    shards: int,
    shard_bytes: int,
    *arguments: Any,
    gpus: float = 0,
) -> Iterator[list[Any]]:
    """Run one actor a shard; they are ended on leaving.

    Args:
        actor: ``ImageIndexActor``, ``RoiShardActor`` or ``RoiSearchActor``.
        run: the stage's run; its CPUs are shared out as threads, its id is in the actors' names.
        manifests: keys of the manifests that the actors read.
        shards: how many.
        shard_bytes: what a shard holds in memory, declared to Ray so that a node is never given more than fits.
        arguments: what else the actors take.
        gpus: share of a GPU that each takes.
    """
    import ray

    memory = shard_bytes + 2**27  # beside the vectors: an idle process with faiss takes 126 MB
    require_memory(run, memory, "raise mining.shards, or take more or larger machines", shards)
    # Out of order: a call that waits for what another actor sends must not hold up what that one waits for in turn,
    # which may come behind it where lost vectors are sent again.
    remote = ray.remote(
        max_restarts=-1,
        max_task_retries=-1,
        num_cpus=0,
        num_gpus=gpus,
        memory=memory,
        allow_out_of_order_execution=True,
    )(actor)
    threads = max(1, run.cpus // shards)
    name = f"{run.run_id}-{run.plan.stage.name}-shard"
    handles = [
        remote.options(scheduling_strategy="SPREAD", name=f"{name}-{shard}").remote(
            run.store, manifests, shard, threads, *arguments
        )
        for shard in range(shards)
    ]
    try:
        yield handles
    finally:
        for handle in handles:
            ray.kill(handle)
