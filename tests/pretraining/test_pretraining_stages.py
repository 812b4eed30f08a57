"""The training stages: under a lease, once, and never over another driver's work."""

import io
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_store import HISTORY, SmallStore, write_fresh_weights

from orl_ray.config import Config, Execution
from orl_ray.embeddings.encoder import load_weights
from orl_ray.execution import StageRun
from orl_ray.graph import main_job
from orl_ray.leases import Lease, LeaseHeldError, latest_fence, lease_folder
from orl_ray.pipeline import plan
from orl_ray.pretraining import stages
from orl_ray.pretraining.initial_weights import initial_backbone
from orl_ray.pretraining.probe import Probe
from orl_ray.pretraining.stages import run_training, training_cpus
from orl_ray.progress import Console, StageProgress


@pytest.fixture
def run(tmp_path):
    small = SmallStore.new(tmp_path / "store")
    small.make("near_duplicates")
    progress = StageProgress(Console(io.StringIO()), "pre-train on images", 1, "steps")
    return StageRun(small.config, small.store, small.plan("image_level"), "run", cpus=4, progress=progress)


@pytest.fixture
def jobs(monkeypatch):
    """Let the training write fresh weights, and note its jobs."""
    import orl_ray.pretraining.ray_trainer as trainer

    seen = []

    def fit(stage_run, job):
        seen.append(job)
        write_fresh_weights(job.config, job.store, job.stage, job.key)

    monkeypatch.setattr(trainer, "fit", fit)
    return seen


def test_a_training_is_written_with_its_manifest_and_its_lease_is_released(run, jobs):
    run_training(run)
    (record,) = run.store.manifest("image_level", run.plan.key)
    assert record.facts["history"] == HISTORY
    assert [(job.stage, job.key, job.fence) for job in jobs] == [("image_level", run.plan.key, 1)]
    assert jobs[0].manifests == {"scenes": run.plan.manifests["scenes"]}
    with Lease(run.store, jobs[0].output, promise=30, run_id="next") as lease:
        assert lease.fence == 2


def test_a_training_says_what_it_costs_and_what_its_batch_norm_averages_over(run, jobs):
    run_training(run)
    text = run.progress.console.stream.getvalue()
    assert "GFLOP a sample (online" in text
    assert "batch norm: torch.nn.BatchNorm over 1 process(es), of each view by itself" in text


def test_starting_from_image_level_reads_it_and_its_content_enters_the_key(tmp_path):
    small = SmallStore.new(tmp_path / "store")
    small.make("correspondences")
    plain, started = small.plan("object_level"), small.with_settings(object_level={"init_from": "image_level"})
    assert "image_level" not in plain.manifests
    planned = started.plan("object_level")
    assert planned.key != plain.key
    assert planned.inputs["image_level"] == small.plan("image_level").content_hash
    found = initial_backbone(started.config, small.store, "object_level", planned.manifests)
    weights = load_weights(small.store, "image_level", planned.manifests["image_level"])
    assert torch.equal(found["conv1.weight"], weights["online.backbone.conv1.weight"])


def test_what_an_earlier_holder_finished_is_not_trained_again(run, jobs):
    write_fresh_weights(run.config, run.store, "image_level", run.plan.key)
    run_training(run)
    assert jobs == []
    assert len(run.store.manifest("image_level", run.plan.key)) == 1


def test_a_second_driver_is_refused_while_the_first_lives(run, jobs):
    entered, leave = threading.Event(), threading.Event()
    output = f"image_level/{run.plan.key}"

    def hold():
        with Lease(run.store, output, promise=30, run_id="first"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert entered.wait(30)
        with pytest.raises(LeaseHeldError, match="by run first"):
            run_training(run)
    finally:
        leave.set()
        thread.join()
    assert jobs == []


@pytest.fixture
def tasks(monkeypatch):
    """Let tasks run at once, in this process."""

    def stage_task(_run, function):
        return SimpleNamespace(remote=function)

    monkeypatch.setattr(stages, "stage_task", stage_task)
    monkeypatch.setattr(stages, "outcome", lambda _run, result: result)


def with_probes(run, epochs):
    config = replace(run.config, execution=replace(run.config.execution, probe_epochs=epochs))
    return replace(run, config=config, progress=StageProgress(Console(io.StringIO()), "train", 0, "steps"))


def test_a_probe_is_made_of_the_runs_artifacts_and_goes_with_the_job(run, jobs, tasks):
    asked = []

    def plan_probe(config, store, manifests):
        asked.append((store, manifests))
        return score

    def score(weights):
        return {}

    stages.with_probe(stages.IMAGE_LEVEL, plan_probe, needs=("near_duplicates",)).work(with_probes(run, 2.5))
    assert asked == [(run.store, run.plan.manifests)]
    assert jobs[0].probe == Probe(2.5, score)
    assert jobs[0].manifests == {"scenes": run.plan.manifests["scenes"]}


def test_no_probe_is_made_where_none_is_asked_for(run, jobs, tasks):
    run_training(with_probes(run, 0), plan_probe=lambda *_: pytest.fail("it was made"))
    assert jobs[0].probe is None


def test_a_probe_that_cannot_be_is_told(run, jobs, tasks):
    probed = with_probes(run, 1)
    run_training(probed, plan_probe=lambda *_: "the source has no labels")
    assert jobs[0].probe is None
    assert "no online probe: the source has no labels" in probed.progress.console.stream.getvalue()


def test_a_probe_changes_no_key_but_waits_for_what_it_needs(tmp_path):
    small = SmallStore.new(tmp_path / "store", "execution.probe_epochs=1")
    small.make("near_duplicates")
    probed = next(stage for stage in main_job() if stage.name == "image_level")
    assert probed.after == ("near_duplicates",)
    assert (probed.inputs, probed.settings) == (stages.IMAGE_LEVEL.inputs, stages.IMAGE_LEVEL.settings)
    plans = plan(small.config, [s if s.name != "image_level" else stages.IMAGE_LEVEL for s in main_job()], small.store)
    assert small.plan("image_level").key == next(p.key for p in plans if p.stage.name == "image_level")


def test_folders_of_trackers_are_absolute_for_workers_that_stand_elsewhere(run, jobs):
    config = replace(run.config, execution=replace(run.config.execution, tensorboard="events"))
    run_training(replace(run, config=config))
    assert jobs[0].config.execution.tensorboard == str(Path.cwd() / "events")


def test_a_training_that_writes_nothing_is_an_error(run, monkeypatch):
    import orl_ray.pretraining.ray_trainer as trainer

    monkeypatch.setattr(trainer, "fit", lambda _run, _job: None)
    with pytest.raises(RuntimeError, match="pre-train on images: the training ended without writing its output"):
        run_training(run)
    assert run.store.manifest("image_level", run.plan.key) is None
    assert latest_fence(lease_folder(run.store, f"image_level/{run.plan.key}")) == 1


@pytest.mark.parametrize(
    ("workers", "each", "total", "budget"), [(1, 0, 8, 8), (2, 3, 8, 6), (2, 8, 8, 8), (4, 0, 2, 2), (1, 1, 8, 1)]
)
def test_a_training_budgets_what_its_workers_take_and_no_more_than_there_is(workers, each, total, budget):
    config = replace(Config(), execution=replace(Execution(), train_workers=workers, train_cpus=each))
    assert training_cpus(config, total) == budget


def test_the_two_trainings_read_what_they_export():
    inputs = {
        stage.name: [entry.artifact for entry in stage.inputs] for stage in (stages.IMAGE_LEVEL, stages.OBJECT_LEVEL)
    }
    assert inputs == {"image_level": ["scenes"], "object_level": ["scenes", "rois", "correspondences"]}
