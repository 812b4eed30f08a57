"""``kill -9`` of the driver in the middle of a stage, then the same command: it finishes, with the same results."""

import json
import signal

from main_job_process import content_hashes, parts, wait_until

IMAGES = 24
MINED, TRAINED = ("--until", "correspondences"), ("--until", "object_level")


def test_driver_killed_in_one_stage_after_the_other_loses_nothing(job, store, undisturbed):
    for stage in ("proposals", "image_embeddings", "neighbors", "roi_embeddings", "correspondences"):
        driver = job.start(store, flags=MINED)
        wait_until(lambda stage=stage: parts(store, stage) > 0, driver, f"first part of {stage}")
        job.kill_driver(driver)
        if stage != "proposals":  # so small images are searched in less time than a kill may take
            assert not (store / stage / "manifests").exists(), f"the kill came after the end of {stage}"

    job.run(store, flags=MINED)

    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed


def test_driver_killed_while_training_goes_on_from_the_last_checkpoint(job, store):
    longer = ("object_level.epochs=6", "execution.checkpoint_seconds=0")
    driver = job.start(store, *longer, flags=TRAINED)
    checkpoints = store / "checkpoints" / "object_level"
    wait_until(lambda: len(list(checkpoints.glob("*/step-*/state.json"))) > 1, driver, "second checkpoint")
    job.kill_driver(driver)
    assert parts(store, "object_level") == 0, "the kill came too late to interrupt the training"
    newest = max(checkpoints.glob("*/step-*/state.json"))
    before = json.loads(newest.read_bytes())["history"]

    job.run(store, *longer, flags=TRAINED)

    record = json.loads(next((store / "object_level").glob("*.json")).read_bytes())
    history = record["facts"]["history"]
    assert [entry["step"] for entry in history] == list(range(1, 6 * IMAGES // 8 + 1))
    assert history[: len(before)] == before, "steps that were done before the kill were done again"


def test_interrupted_or_stopped_driver_ends_soon_says_so_and_keeps_its_checkpoint(job, store):
    longer = ("object_level.epochs=40", "execution.checkpoint_seconds=0")
    checkpoints = store / "checkpoints" / "object_level"
    newest = lambda: max(checkpoints.glob("*/step-*/state.json"), default=None)  # noqa: E731
    for sent, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = newest()
        driver = job.start(store, *longer, flags=TRAINED)
        wait_until(lambda before=before: newest() != before, driver, "another checkpoint")
        driver.send_signal(sent)
        output, _ = driver.communicate(timeout=200)
        assert driver.returncode == code, output
        assert "the same command goes on from here" in output
        assert json.loads(max((store / "runs").glob("*.json")).read_bytes())["status"] == "interrupted"
        assert parts(store, "object_level") == 0
        assert newest(), "the checkpoint to go on from is gone"
