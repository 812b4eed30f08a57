"""``kill -9`` of workers while the driver lives: the same run finishes, with the same results."""

import json

import pytest
from main_job_process import content_hashes, kill_worker, parts, wait_until, workers


@pytest.mark.parametrize(
    ("stage", "worker"),
    [
        ("proposals", "_map_task"),
        ("roi_embeddings", "MapWorker"),
        ("neighbors", "ImageIndexActor"),
        ("correspondences", "RoiShardActor"),
    ],
)
def test_killed_worker_is_replaced(job, store, undisturbed, stage, worker):
    driver = job.start(store, flags=("--until", "correspondences"))
    previous = {"proposals": "scenes", "roi_embeddings": "neighbors", "neighbors": "shards"}.get(
        stage, "roi_embeddings"
    )
    wait_until(lambda: bool(list((store / previous / "manifests").glob("*.json"))), driver, f"{previous}")
    wait_until(lambda: bool(workers(driver, worker)), driver, f"{worker} of {stage}")
    victim = kill_worker(driver, worker)
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    assert victim
    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed


def test_killed_training_worker_is_restarted_from_the_last_checkpoint(job, store):
    longer = ("object_level.epochs=6", "execution.checkpoint_seconds=0")
    driver = job.start(store, *longer, flags=("--until", "object_level"))
    checkpoints = store / "checkpoints" / "object_level"
    wait_until(lambda: bool(list(checkpoints.glob("*/step-*/state.json"))), driver, "first checkpoint")
    kill_worker(driver, "RayTrainWorker")
    assert parts(store, "object_level") == 0, "the kill came too late to interrupt the training"
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    record = json.loads(next((store / "object_level").glob("*.json")).read_bytes())
    steps = [entry["step"] for entry in record["facts"]["history"]]
    assert steps == list(range(1, 19))
