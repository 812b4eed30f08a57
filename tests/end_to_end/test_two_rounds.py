"""The main job in two rounds, with global mining: one command trains, discovers again, and trains again."""

import json

import pytest
from main_job_process import private_main_job

ROUNDS = ("rounds=2", "mining.scope=global")


@pytest.fixture(scope="module")
def job():
    with private_main_job() as started:
        yield started


@pytest.mark.timeout(900)
def test_a_second_round_is_trained_on_what_the_first_ones_network_finds(job, tmp_path):
    store = tmp_path / "store"
    told = job.run(store, *ROUNDS)
    first, second = sorted(
        (json.loads(path.read_bytes()) for path in (store / "runs").glob("*.json")), key=lambda r: r["round"]["number"]
    )
    assert (first["status"], second["status"]) == ("finished", "finished")
    assert second["round"] == {"number": 2, "of": 2, "builds_on": [first["run_id"]]}
    assert second["stages"]["image_level"]["content_hash"] == first["stages"]["object_level"]["content_hash"]
    made = {name for name, entry in second["stages"].items() if entry["made_here"]}
    assert made == {
        *("image_embeddings", "centroids", "shards", "neighbors", "roi_embeddings", "roi_codebook", "correspondences"),
        *("object_level", "evaluation", "report"),
    }
    page = (store / "report" / second["stages"]["report"]["key"] / "index.html").read_text()
    assert "This is a later round" in page
    assert "roi_codebook" in page
    assert "neighbours as in the round before" in told
    again = job.run(store, *ROUNDS)
    assert again.count("Ray was not started") == 2
