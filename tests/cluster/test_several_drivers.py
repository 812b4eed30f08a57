"""Several drivers on one store: one writer a training output, everything else side by side."""

import json

from main_job_process import parts, wait_until

MINED = ("--until", "correspondences")
TRAINED = ("--until", "object_level")


def test_second_driver_is_refused_while_the_first_lives_and_takes_over_when_it_is_dead(job, store):
    job.run(store, flags=MINED)
    longer = ("object_level.epochs=12", "execution.checkpoint_seconds=0")
    first = job.start(store, *longer, flags=TRAINED)
    checkpoints = store / "checkpoints" / "object_level"
    wait_until(lambda: bool(list(checkpoints.glob("*/step-*/state.json"))), first, "first checkpoint")

    refusal = job.run(store, *longer, flags=TRAINED, code=1)

    assert "is being written by run" in refusal
    assert f"process {first.pid}" in refusal
    assert first.poll() is None, "the first driver ended too early to prove anything"
    job.kill_driver(first)
    assert parts(store, "object_level") == 0

    job.run(store, *longer, flags=TRAINED)

    assert parts(store, "object_level") == 1
    fences = sorted(path.stem for path in (store / "leases" / "object_level").glob("*/*.json"))
    assert fences == ["00000001", "00000002"]


def test_drivers_that_write_different_outputs_share_a_store(job, store):
    job.run(store, flags=MINED)
    drivers = [job.start(store, f"object_level.learning_rate={rate}", flags=TRAINED) for rate in ("0.2", "0.3")]
    outputs = [driver.communicate(timeout=240)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], "\n".join(outputs)
    assert parts(store, "object_level") == 2


def test_drivers_that_mine_the_same_parts_at_once_both_finish(job, store, undisturbed):
    from main_job_process import content_hashes

    drivers = [job.start(store, flags=MINED) for _ in range(2)]
    outputs = [driver.communicate(timeout=240)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], "\n".join(outputs)
    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed
    run = json.loads(max((store / "runs").glob("*.json")).read_bytes())
    assert run["status"] == "finished"
