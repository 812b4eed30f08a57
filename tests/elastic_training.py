"""A program: an elastic training on a cluster, whose workers hold at two steps until Ray has changed their number.

Events rule it, not clocks: two workers go as far as step ``FIRST``, and hold there until a node dies; one goes as far
as step ``SECOND``, and holds there until Ray has room for two, which go on to the end.
"""

import sys
import time
from unittest import mock

from orl_ray.config import Config
from orl_ray.graph import main_job
from orl_ray.leases import Lease
from orl_ray.pins import resolve_pins
from orl_ray.pipeline import plan
from orl_ray.pretraining import ray_trainer
from orl_ray.pretraining.ray_trainer import TrainingJob
from orl_ray.ray_session import ray_session
from orl_ray.settings import load
from orl_ray.storage import Store

FIRST, SECOND = 4, 8
HOLDS = {(FIRST, 2), (SECOND, 1)}


def held_worker(arguments: dict[str, TrainingJob]) -> None:
    """Train as any worker does, but hold after those steps, with the progress told."""
    import ray.train

    from orl_ray.pretraining import ray_trainer as here

    size, report = ray.train.get_context().get_world_size(), here.Watcher.__call__

    def hold(self, step, total, entry):
        self._written_at = 0.0  # tell of every step
        report(self, step, total, entry)
        while (step, size) in HOLDS:
            time.sleep(0.1)

    with mock.patch.object(here.Watcher, "__call__", hold):
        here.train_worker(arguments)


def job_of(config: Config, store: Store, fence: int) -> TrainingJob:
    plans = plan(config, main_job(), store, resolve_pins(config, store))
    (wanted,) = (entry for entry in plans if entry.stage.name == "image_level")
    return TrainingJob(config, store, "image_level", wanted.key, fence, wanted.manifests)


def main() -> None:
    config = load("laptop", None, sys.argv[1:])
    store = Store(config.execution.store)
    output = job_of(config, store, 0).output
    with (
        Lease(store, output, promise=30, run_id="elastic") as lease,
        ray_session(config, "elastic"),
        mock.patch.object(ray_trainer, "train_worker", held_worker),
    ):
        ray_trainer._fit(job_of(config, store, lease.fence), cpus=1)


if __name__ == "__main__":
    main()
