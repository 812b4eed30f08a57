"""TensorBoard and MLflow: what is asked for and not installed is told, what is installed gets every number."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from orl_ray.config import Config, Execution
from orl_ray.pretraining import trackers
from orl_ray.pretraining.trackers import MlflowTracker, TensorBoardTracker, open_trackers, with_absolute_places

OUTPUT = "image_level/0123"


def installed(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'orl-ray[tracking]'")


def asking(**execution):
    return replace(Config(), execution=Execution(**execution))


def test_by_default_there_is_none_and_nothing_is_imported(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail(f"{name} was looked for"))
    assert open_trackers(Config(), "image_level", OUTPUT) == []


def test_packages_that_are_not_installed_are_told_all_at_once(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tensorboard is not installed.*mlflow is not installed: pip install"):
        open_trackers(asking(tensorboard="events", mlflow="http://host"), "image_level", OUTPUT)


def test_places_mean_the_same_in_every_process():
    execution = with_absolute_places(Execution(tensorboard="events", mlflow="http://host:5000"))
    assert execution.tensorboard == str(Path.cwd() / "events")
    assert execution.mlflow == "http://host:5000"
    assert with_absolute_places(Execution(mlflow="runs")).mlflow == str(Path.cwd() / "runs")
    assert with_absolute_places(Execution()) == Execution()


@installed("tensorboard")
def test_tensorboard_gets_scalars_and_a_training_that_goes_on_replaces_what_it_repeats(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = open_trackers(asking(tensorboard=str(tmp_path)), "image_level", OUTPUT)
    assert isinstance(tracker, TensorBoardTracker)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 4.0 - step, "feature_std": 0.5})
    resumed = TensorBoardTracker(tmp_path / OUTPUT)
    resumed.log(3, {"loss": 0.25})
    resumed.close()
    events = EventAccumulator(str(tmp_path / OUTPUT))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 3.0), (2, 2.0), (3, 0.25)]
    assert [event.step for event in events.Scalars("feature_std")] == [1, 2]


@installed("mlflow")
def test_mlflow_gets_metrics_and_parameters_and_a_training_that_goes_on_finds_its_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = str(tmp_path / "runs")
    (tracker,) = open_trackers(asking(mlflow=place), "image_level", OUTPUT)
    assert isinstance(tracker, MlflowTracker)
    tracker.log(1, {"loss": 3.0, "effective_rank": 7.5})
    (resumed,) = open_trackers(asking(mlflow=place), "image_level", OUTPUT)
    resumed.log(2, {"loss": 2.0})
    resumed.close()
    (other,) = open_trackers(asking(mlflow=place), "object_level", "object_level/4567")
    assert other._run != tracker._run == resumed._run
    run = trackers.mlflow_client(place).get_run(tracker._run)
    assert run.data.metrics == {"loss": 2.0, "effective_rank": 7.5}
    assert (run.data.params["image_level.epochs"], run.data.params["seed"]) == ("800", "0")
    assert not any(name.startswith("execution.") for name in run.data.params)
    assert run.info.status == "FINISHED"
