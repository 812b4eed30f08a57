"""``kill -9`` of workers while the driver lives: the same run finishes, with the same results."""

import json
import shutil

from main_job_process import content_hashes, kill_worker, parts, wait_until, workers

# What must exist before a stage starts, and how its workers are called in the list of processes.
STAGES = {
    "proposals": ("scenes", "PartWorker"),
    "image_embeddings": ("rois", "MapWorker"),
    "neighbors": ("shards", "ImageIndexActor"),
    "roi_embeddings": ("neighbors", "MapWorker"),
    "correspondences": ("roi_embeddings", "RoiShardActor"),
}


def test_worker_killed_in_every_stage_is_replaced(job, store, undisturbed):
    driver = job.start(store, flags=("--until", "correspondences"))
    for stage, (previous, name) in STAGES.items():
        manifests = store / previous / "manifests"
        wait_until(lambda folder=manifests: any(folder.glob("*.json")), driver, f"manifest of {previous}")
        wait_until(lambda name=name: bool(workers(driver, name)), driver, f"worker {name} of {stage}")
        kill_worker(driver, name)
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed


def test_one_of_four_workers_killed_and_half_of_the_regions_resumed_by_one_worker(job, store, undisturbed):
    four, flags = ("execution.cpus=4", "execution.data_workers=4"), ("--until", "rois")
    driver = job.start(store, *four, flags=flags)
    wait_until(lambda: bool(workers(driver, "PartWorker")), driver, "worker of the proposals")
    kill_worker(driver, "PartWorker")
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    regions = {artifact: undisturbed[artifact] for artifact in ("proposals", "rois")}
    assert {artifact: content_hashes(store, artifact) for artifact in regions} == regions

    for artifact in regions:  # what a driver leaves that dies half-way, however fast the search is
        for record in sorted((store / artifact).glob("*.json"))[::2]:
            record.unlink()
            shutil.rmtree(record.with_suffix(""))
        shutil.rmtree(store / artifact / "manifests")
    job.run(store, "execution.data_workers=1", flags=flags)

    assert {artifact: content_hashes(store, artifact) for artifact in regions} == regions


def test_killed_training_worker_is_restarted_from_the_last_checkpoint(job, store):
    longer = ("object_level.epochs=6", "execution.checkpoint_seconds=0")
    driver = job.start(store, *longer, flags=("--until", "object_level"))
    checkpoints = store / "checkpoints" / "object_level"
    wait_until(lambda: any(checkpoints.glob("*/step-*/state.json")), driver, "first checkpoint")
    kill_worker(driver, "RayTrainWorker")
    assert parts(store, "object_level") == 0, "the kill came too late to interrupt the training"
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    record = json.loads(next((store / "object_level").glob("*.json")).read_bytes())
    assert [entry["step"] for entry in record["facts"]["history"]] == list(range(1, 19))
