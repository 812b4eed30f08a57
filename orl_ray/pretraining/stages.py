"""The stages ``image_level`` and ``object_level``: two pre-trainings, each written by one driver at a time."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.leases import Lease
from orl_ray.pipeline import Input, Stage
from orl_ray.pretraining.initial_weights import initial_identity
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import Store

if TYPE_CHECKING:
    from orl_ray.pretraining.probe import Probe, Score

PlanProbe = Callable[[Config, Store, Mapping[str, str]], "Score | str"]
"""Makes what scores a backbone while it trains, from the config, the store and the manifests, or says why not."""


def run_training(run: StageRun, plan_probe: PlanProbe | None = None) -> None:
    """Train under a lease, and write the manifest.

    Args:
        run: the stage's run.
        plan_probe: makes the online probe, in a task; None where there is none.

    Raises:
        LeaseHeldError: another living driver writes this output.
        RuntimeError: the training failed.
    """
    from orl_ray.pretraining.facts import describe, training_facts
    from orl_ray.pretraining.ray_trainer import TrainingJob, fit
    from orl_ray.pretraining.trackers import with_absolute_places

    stage, key, execution = run.plan.stage.name, run.plan.key, run.config.execution
    with Lease(run.store, f"{stage}/{key}", promise=execution.lease_seconds, run_id=run.run_id) as lease:
        if run.store.record(stage, key) is None:  # the holder before us may have finished it
            device_type = "cuda" if execution.use_gpu else "cpu"
            settings = getattr(run.config, stage)
            for line in describe(training_facts(settings, run.config.encoder, execution.train_workers, device_type)):
                run.progress.console.line(f"{run.plan.stage.title}: {line}")
            manifests = {name: run.plan.manifests[name] for name in run.plan.inputs}
            probe = _probe(run, plan_probe) if plan_probe and run.config.execution.probe_epochs else None
            config = replace(run.config, execution=with_absolute_places(run.config.execution))
            fit(run, TrainingJob(config, run.store, stage, key, lease.fence, manifests, probe))
        record = run.store.record(stage, key)
        if record is None:
            raise RuntimeError(f"{run.plan.stage.title}: the training ended without writing its output")
        run.store.write_manifest(stage, key, [record])


def with_probe(stage: Stage, plan_probe: PlanProbe, needs: tuple[str, ...]) -> Stage:
    """Give a training an online probe: pre-training knows neither labels nor how to score.

    Args:
        stage: ``IMAGE_LEVEL`` or ``OBJECT_LEVEL``.
        plan_probe: makes the probe.
        needs: artifacts beside the stage's inputs that it reads. They leave the stage's result and key unchanged.
    """
    return replace(stage, after=(*stage.after, *needs), work=partial(run_training, plan_probe=plan_probe))


def _probe(run: StageRun, plan_probe: PlanProbe) -> "Probe | None":
    from orl_ray.pretraining.probe import Probe

    made = outcome(run, stage_task(run, plan_probe).remote(run.config, run.store, run.plan.manifests))
    if isinstance(made, str):
        run.progress.console.line(f"{run.plan.stage.title}: no online probe: {made}")
        return None
    return Probe(run.config.execution.probe_epochs, made)


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
    identity=initial_identity("image_level"),
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
    identity=initial_identity("object_level"),
    scope="collection",
    unit="steps",
    budget=training_cpus,
    trains=True,
    work=run_training,
)

# With object_level.init_from=image_level.
OBJECT_LEVEL_FROM_IMAGES = replace(OBJECT_LEVEL, inputs=(*OBJECT_LEVEL.inputs, Input("image_level", "collection")))
