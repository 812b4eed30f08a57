"""TensorBoard and MLflow, where the config asks for them: a run for each training, fed by the process of rank 0.

Both are optional packages (``pip install 'orl-ray[tracking]'``), imported only when they are asked for.
"""

import importlib.util
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from orl_ray.config import Config, Execution, flatten

EXPERIMENT = "orl_ray"
_INSTALL = "is not installed: pip install 'orl-ray[tracking]', on every node"
# MLflow's own patience is minutes, in which a training would stand still.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_SILENCE = {"MLFLOW_DISABLE_TELEMETRY": "true"}
_OUTPUT_TAG = "orl_ray.output"


class Tracker(Protocol):
    """Takes measurements and shows them somewhere."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the measurements of a step."""

    def close(self) -> None:
        """Say that the training is done."""


def asked_for(execution: Execution) -> dict[str, str]:
    """Return package -> place of the trackers that the config asks for."""
    places = {"tensorboard": execution.tensorboard, "mlflow": execution.mlflow}
    return {package: place for package, place in places.items() if place}


def package_problem(package: str) -> str:
    """Say that a package is not installed here, or ""."""
    return "" if importlib.util.find_spec(package) else f"the package {package} {_INSTALL}"


def with_absolute_places(execution: Execution) -> Execution:
    """Return the settings with paths that mean the same in every process."""
    places: dict[str, Any] = {
        name: place if "://" in place or place.startswith("file:") else str(Path(place).absolute())
        for name, place in asked_for(execution).items()
    }
    return replace(execution, **places)


def open_trackers(config: Config, stage: str, output: str) -> list[Tracker]:
    """Open what the config asks for; none by default.

    Args:
        config: the config.
        stage: ``image_level`` or ``object_level``.
        output: what is trained, for example ``image_level/<key>``: a training that goes on finds its run by it.

    Raises:
        ValueError: a package is not installed on this node.
        Exception: MLflow does not answer.
    """
    execution = config.execution
    if problems := [problem for package in asked_for(execution) if (problem := package_problem(package))]:
        raise ValueError("; ".join(problems))
    trackers: list[Tracker] = []
    if execution.tensorboard:
        trackers.append(TensorBoardTracker(Path(execution.tensorboard) / output))
    if execution.mlflow:
        sections = ("seed", "encoder.", f"{stage}.", *(["mining."] if stage == "object_level" else []))
        values = {name: value for name, value in flatten(config).items() if name.startswith(sections)}
        trackers.append(MlflowTracker(execution.mlflow, output, values))
    return trackers


class TensorBoardTracker:
    """Writes event files.

    Args:
        folder: of this training alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars; those of a training that goes on take the place of what was written behind its checkpoint."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class MlflowTracker:
    """Logs to a run of the experiment ``orl_ray``.

    Args:
        uri: tracking server or store.
        output: what is trained; a run that is tagged with it is gone on with.
        settings: the run's parameters.
    """

    def __init__(self, uri: str, output: str, settings: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        self._client = mlflow_client(uri)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        found = self._client.search_runs([number], f"tags.`{_OUTPUT_TAG}` = '{output}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(number, tags={_OUTPUT_TAG: output}, run_name=output).info.run_id
        self._client.log_batch(self._run, params=[Param(name, str(value)) for name, value in settings.items()])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics, in one request."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


def mlflow_client(uri: str) -> Any:
    """Return a client that gives up after seconds and tells nobody of its use; what the environment says stands."""
    for name, value in {**_PATIENCE, **_SILENCE}.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)
