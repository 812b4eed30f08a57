"""The same checkpoint gives the same artifacts, for any number of workers and shards."""

import pytest
from main_job_process import content_hashes


@pytest.mark.parametrize(("cpus", "workers"), [(2, 1), (4, 4)])
def test_another_number_of_data_workers_gives_the_hashes_of_two(job, store, undisturbed, cpus, workers):
    settings = (f"execution.cpus={cpus}", f"execution.data_workers={workers}")
    job.run(store, *settings, flags=("--until", "correspondences"))
    assert {artifact: content_hashes(store, artifact) for artifact in undisturbed} == undisturbed


@pytest.mark.parametrize("shards", [1, 3])
def test_number_of_shards_changes_their_layout_only(job, store, undisturbed, shards):
    job.run(store, f"mining.shards={shards}", flags=("--until", "correspondences"))
    hashes = {artifact: content_hashes(store, artifact) for artifact in undisturbed}
    changed = {artifact for artifact in undisturbed if hashes[artifact] != undisturbed[artifact]}
    assert changed == {"shards", "roi_embeddings"}
