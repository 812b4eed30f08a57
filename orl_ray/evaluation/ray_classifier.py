"""The thin Ray Train adapter of the classifiers: workers that each run the plain loop, and the scores they come to.

Lost workers are started again and go on from the latest checkpoint in the job's folder. What Ray keeps itself is not
read again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orl_ray.evaluation.classifier_job import ClassifierJob
from orl_ray.evaluation.classifier_loop import Scores
from orl_ray.pretraining.place import Place

_COLLECTIVE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Workers:
    """How a job is spread.

    Attributes:
        count: processes; they share each batch.
        cpus: CPUs of each.
        gpu: whether each has a GPU.
        max_failures: losses of workers that a training survives.
    """

    count: int
    cpus: int
    gpu: bool
    max_failures: int = 3


def fit(job: ClassifierJob, workers: Workers) -> list[Scores]:
    """Train a job with Ray Train; Ray must be up.

    Args:
        job: the job; its folder and its data are seen by every node.
        workers: how it is spread.

    Returns:
        The scores of each scoring, as :meth:`ClassifierJob.run` returns them.

    Raises:
        RuntimeError: the training failed, or more workers were lost than may be.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    if (finished := job.finished()) is not None:
        return finished
    TorchTrainer(
        _work,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if workers.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=job.key(),
            storage_path=str((Path(job.folder) / "ray_train").absolute()),
            failure_config=ray.train.FailureConfig(max_failures=workers.max_failures),
        ),
    ).fit()
    if (finished := job.finished()) is None:
        raise RuntimeError(f"Ray Train ended, but {job.folder} holds no finished training: do all nodes share it?")
    return finished


def _work(arguments: dict[str, Any]) -> None:
    """Run the loop in one worker; the last checkpoint holds the scores."""
    import ray
    import ray.train.torch

    job: ClassifierJob = arguments["job"]
    context = ray.train.get_context()
    threads = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    torch.set_num_threads(threads)
    place = Place(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    job.run(place, lambda _step, _total: None, threads)
