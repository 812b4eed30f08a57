"""``kill -9`` of shard actors while a call waits for them, and of the driver while pairs are mined: the same results.

Each part needs every actor of its stage. So an actor that is stopped first (SIGSTOP) stops the stage with a call on its
way to it, and the kill is in the middle of one, however fast the parts are.
"""

import shutil
import time

from main_job_process import content_hashes, parts, wait_until, workers

PARTS = 6  # 24 images, 4 a part
UNTIL = ("--until", "correspondences")
ONE_WORKER = "execution.data_workers=1"


def kill_amid_a_call(driver, store, stage, actor):
    """Stop an actor after its first part, let the stage run into it, kill it; return when it lives again."""
    wait_until(lambda: bool(workers(driver, actor)), driver, f"{actor} of {stage}")
    before = {process.pid for process in workers(driver, actor)}
    victim = workers(driver, actor)[0]
    wait_until(lambda: parts(store, stage) > 0, driver, f"first part of {stage}")
    victim.suspend()
    time.sleep(2)
    assert 0 < parts(store, stage) < PARTS, f"{actor} was stopped too late"
    victim.kill()
    wait_until(lambda: any(process.pid not in before for process in workers(driver, actor)), driver, f"another {actor}")


def test_killed_actors_and_a_killed_driver_leave_mining_the_same(job, store, undisturbed):
    driver = job.start(store, ONE_WORKER, flags=UNTIL)
    kill_amid_a_call(driver, store, "neighbors", "ImageIndexActor")
    kill_amid_a_call(driver, store, "correspondences", "RoiShardActor")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed

    shutil.rmtree(store / "correspondences")
    driver = job.start(store, ONE_WORKER, flags=UNTIL)
    wait_until(lambda: parts(store, "correspondences") > 0, driver, "first part of the pairs")
    job.kill_driver(driver)
    written = {path: path.stat().st_mtime_ns for path in (store / "correspondences").glob("*.json")}
    assert len(written) < PARTS, "the kill came too late to interrupt the mining of pairs"

    job.run(store, ONE_WORKER, flags=UNTIL)

    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed
    assert {path: path.stat().st_mtime_ns for path in written} == written, "parts that were there were made again"
