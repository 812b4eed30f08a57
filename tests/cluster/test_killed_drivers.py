"""``kill -9`` of the driver in the middle of a stage, then the same command: it finishes, with the same results."""

import json

import pytest
from main_job_process import TINY, content_hashes, parts, wait_until

IMAGES = 24
PARTS = 6


@pytest.mark.parametrize("stage", ["proposals", "image_embeddings", "roi_embeddings", "neighbors", "correspondences"])
def test_killed_while_making_parts(job, store, undisturbed, stage):
    driver = job.start(store, flags=("--until", "correspondences"))
    wait_until(lambda: parts(store, stage) > 0, driver, f"first part of {stage}")
    job.kill_driver(driver)
    assert parts(store, "correspondences") < PARTS, "the kill came too late to interrupt anything"

    output = job.run(store, flags=("--until", "correspondences"))

    assert "correspondences" in output
    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed


def test_killed_while_training_goes_on_from_the_last_checkpoint(job, store):
    longer = ("object_level.epochs=6", "execution.checkpoint_seconds=0")
    driver = job.start(store, *longer, flags=("--until", "object_level"))
    checkpoints = store / "checkpoints" / "object_level"
    wait_until(lambda: len(list(checkpoints.glob("*/step-*/state.json"))) > 1, driver, "second checkpoint")
    job.kill_driver(driver)
    assert parts(store, "object_level") == 0, "the kill came too late to interrupt the training"
    reached = max(json.loads(path.read_bytes())["step"] for path in checkpoints.glob("*/step-*/state.json"))

    job.run(store, *longer, flags=("--until", "object_level"))

    history = newest_history(store)
    assert history[-1]["step"] == 6 * IMAGES / 8
    assert [entry["step"] for entry in history] == list(range(1, len(history) + 1)), "steps were lost or done twice"
    assert reached >= 1
    assert len(TINY) > 0


def newest_history(store):
    record = max((store / "object_level").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(record.read_bytes())["facts"]["history"]
