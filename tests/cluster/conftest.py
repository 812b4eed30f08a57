"""Stores that the cluster tests start from: copies of one in which image-level pre-training is done."""

import shutil
from pathlib import Path

import pytest
from main_job_process import MainJob, content_hashes, private_main_job

MINED = (
    "proposals",
    "rois",
    "image_embeddings",
    "shards",
    "neighbors",
    "roi_embeddings",
    "correspondences",
)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def job():
    with private_main_job() as started:
        yield started


@pytest.fixture(scope="session")
def pretrained(job: MainJob, tmp_path_factory):
    """A store that holds the image-level checkpoint and nothing that follows from it."""
    store = tmp_path_factory.mktemp("pretrained") / "store"
    job.run(store, flags=("--until", "image_level"))
    return store


@pytest.fixture(scope="session")
def undisturbed(job: MainJob, pretrained: Path, tmp_path_factory):
    """The content hashes of everything that is mined from that checkpoint, made by two workers with two shards."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    shutil.copytree(pretrained, store)
    job.run(store, flags=("--until", "correspondences"))
    return {artifact: content_hashes(store, artifact) for artifact in MINED}


@pytest.fixture
def store(pretrained: Path, tmp_path: Path):
    """A fresh copy of the store with the image-level checkpoint."""
    copy = tmp_path / "store"
    shutil.copytree(pretrained, copy)
    return copy
