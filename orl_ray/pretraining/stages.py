"""The stages ``image_level`` and ``object_level``: two pre-trainings, each written by one driver at a time."""

from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.leases import Lease
from orl_ray.pipeline import Input, Stage


def run_training(run: StageRun) -> None:
    """Train under a lease, and write the manifest.

    Raises:
        LeaseHeldError: another living driver writes this output.
        RuntimeError: the training failed.
    """
    from orl_ray.pretraining.ray_trainer import TrainingJob, fit

    stage, key = run.plan.stage.name, run.plan.key
    with Lease(run.store, f"{stage}/{key}", promise=run.config.execution.lease_seconds, run_id=run.run_id) as lease:
        if run.store.record(stage, key) is None:  # the holder before us may have finished it
            manifests = {name: run.plan.manifests[name] for name in run.plan.inputs}
            fit(run, TrainingJob(run.config, run.store, stage, key, lease.fence, manifests))
        record = run.store.record(stage, key)
        if record is None:
            raise RuntimeError(f"{run.plan.stage.title}: the training ended without writing its output")
        run.store.write_manifest(stage, key, [record])


def training_cpus(config: Config, total: int) -> int:
    """Budget the CPUs of the training workers: what the config names, or all of them."""
    wanted = config.execution.train_cpus * config.execution.train_workers
    return min(wanted, total) if wanted else total


IMAGE_LEVEL = Stage(
    name="image_level",
    title="pre-train on images",
    version=2,
    inputs=(Input("scenes", "collection"),),
    settings=("seed", "encoder", "image_level"),
    scope="collection",
    unit="steps",
    budget=training_cpus,
    trains=True,
    work=run_training,
)

OBJECT_LEVEL = Stage(
    name="object_level",
    title="pre-train on objects",
    version=2,
    inputs=(
        Input("scenes", "collection"),
        Input("rois", "collection"),
        Input("correspondences", "collection"),
    ),
    settings=(
        "seed",
        "encoder",
        "object_level",
        "mining.k",
        "mining.pair_ratio",
        "mining.min_similarity",
        "mining.max_similarity",
    ),
    scope="collection",
    unit="steps",
    budget=training_cpus,
    trains=True,
    work=run_training,
)
