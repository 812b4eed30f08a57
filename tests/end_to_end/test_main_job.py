"""The main job as a user runs it: once from nothing, then again with nothing or little changed."""

import json
from pathlib import Path

import pytest
from main_job_process import MainJob, private_main_job
from safetensors.torch import load_file
from torchvision.models import resnet18

STAGES = [
    *("listing", "packed_scenes", "scenes", "near_duplicates", "proposals", "rois", "image_level", "image_embeddings"),
    *("centroids", "shards", "neighbors", "roi_embeddings", "correspondences", "object_level", "evaluation", "report"),
]
SEARCH = ("proposals", "rois", "image_embeddings", "shards", "neighbors", "roi_embeddings", "correspondences")


@pytest.fixture(scope="module")
def job():
    with private_main_job() as started:
        yield started


@pytest.fixture(scope="module")
def finished(job: MainJob, tmp_path_factory):
    """A store in which the job ran once, and what it said."""
    store = tmp_path_factory.mktemp("main-job") / "store"
    return store, job.run(store)


def newest_run(store: Path) -> dict:
    return json.loads(max((store / "runs").glob("*.json")).read_bytes())


def planned(output: str) -> dict[str, str]:
    """Read stage -> state from what --dry-run prints."""
    lines = [line.split() for line in output.splitlines()]
    return {words[0]: words[1] for words in lines if words and words[0] in STAGES}


def artifact_files(store: Path) -> dict[str, int]:
    files = (path for path in store.rglob("*") if path.is_file() and path.relative_to(store).parts[0] != "runs")
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.timeout(600)
def test_job_makes_every_stage_and_says_where_the_results_are(finished):
    store, output = finished
    run = newest_run(store)
    assert run["status"] == "finished"
    assert {name: entry["state"] for name, entry in run["stages"].items()} == dict.fromkeys(STAGES, "done")
    page = store / "report" / run["stages"]["report"]["key"] / "index.html"
    assert page.is_file()
    assert f"report: {page}" in output
    assert "too small to conclude" in page.read_text()
    assert not (store / "checkpoints" / "image_level" / run["stages"]["image_level"]["key"]).exists()


def test_backbone_loads_into_torchvision_with_only_the_classifier_missing(finished):
    store, _ = finished
    weights = load_file(
        store / "object_level" / newest_run(store)["stages"]["object_level"]["key"] / "backbone.safetensors"
    )
    missing, unexpected = resnet18().load_state_dict(weights, strict=False)
    assert sorted(missing) == ["fc.bias", "fc.weight"]
    assert not unexpected


def test_running_again_starts_no_ray_and_touches_no_artifact(job: MainJob, finished):
    store, _ = finished
    before = artifact_files(store)
    output = job.run(store)
    assert "nothing was missing, Ray was not started" in output
    assert "up to date" in output
    assert artifact_files(store) == before
    assert not any(entry["made_here"] for entry in newest_run(store)["stages"].values())


def test_smaller_k_redoes_no_search(job: MainJob, finished):
    store, _ = finished
    states = planned(job.run(store, "mining.k=2", flags=("--dry-run",)))
    assert states["object_level"] == "run"
    assert {states[name] for name in SEARCH} == {"done"}


def test_training_constant_redoes_that_training_and_what_follows_only(job: MainJob, finished):
    store, _ = finished
    output = job.run(store, "object_level.learning_rate=0.3", flags=("--dry-run",))
    states = planned(output)
    assert [name for name in STAGES if states[name] != "done"] == ["object_level", "evaluation", "report"]
    assert "object_level.learning_rate 0.4 -> 0.3" in output
    early = planned(job.run(store, "image_level.learning_rate=0.3", flags=("--dry-run",)))
    assert [name for name in STAGES if early[name] == "done"] == STAGES[: STAGES.index("image_level")]


def test_changed_k_runs_only_training_and_says_so(job: MainJob, finished):
    store, _ = finished
    output = job.run(store, "mining.k=2")
    made = {name for name, entry in newest_run(store)["stages"].items() if entry["made_here"]}
    assert made == {"object_level", "evaluation", "report"}
    assert "mining.k 3 -> 2" in output


def test_mistakes_are_reported_together_before_anything_starts(job: MainJob, tmp_path):
    output = job.run(tmp_path / "store", "mining.kk=1", "rois.max_iou=2", code=2)
    assert "2 mistakes" in output
    assert "did you mean mining.k?" in output
    assert not (tmp_path / "store").exists()


@pytest.mark.timeout(600)
def test_plain_folder_without_labels_ends_in_a_report_and_skips_evaluation(job: MainJob, finished, tmp_path):
    images = next((finished[0] / "generated").glob("train-*")) / "images"
    store = tmp_path / "store"
    (bad := tmp_path / "photos" / "nested").mkdir(parents=True)
    for number, path in enumerate(sorted(images.glob("*.jpg"))):
        (bad / f"photo {number}.jpg").write_bytes(path.read_bytes())
    (bad / "broken.jpg").write_bytes(b"not a picture")
    settings = ("source.kind=folder", f"source.images={tmp_path / 'photos'}", "execution.max_bad_fraction=0.1")
    output = job.run(store, *settings)
    assert "skipped: no labels" in output
    stages = newest_run(store)["stages"]
    assert stages["evaluation"]["state"] == "skipped"
    page = (store / "report" / stages["report"]["key"] / "index.html").read_text()
    assert "broken.jpg" in page
    strict = job.run(store, *settings[:2], code=1)
    assert "1 of 25 images are in quarantine" in strict
    assert "not an image" in strict
