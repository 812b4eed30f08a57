"""Fixtures that every test may use."""

import os
import uuid
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from object_store import object_store, reached_by

# The cores are shared, so time tells nothing about one example. The gate tries the same examples each time.
settings.register_profile("orl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("orl")


@pytest.fixture(scope="session")
def scenes_root() -> Path:
    """Return the folder with the real photographs (coco_dev, coco_pool); skip where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ORL_SCENES", default))
    if not (root / "coco_dev" / "images").is_dir():
        pytest.skip(f"no real photographs: set ORL_SCENES to a folder with coco_dev/ and coco_pool/ (looked in {root})")
    return root


@pytest.fixture(autouse=True, scope="session")
def no_disk_flushes():
    """Flush nothing to disk: tests survive no power cut, and a busy disk would take most of their time."""
    with mock.patch("os.fsync"):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return a small store that went all the way to the report, to be read only; ``copy`` gives one to change."""
    from small_store import SmallStore

    small = SmallStore.new(tmp_path_factory.mktemp("finished") / "store")
    small.make()
    return small


@pytest.fixture(scope="session")
def s3_server():
    with object_store("s3") as server:
        yield server


@pytest.fixture(scope="session")
def gs_server():
    with object_store("gs") as server:
        yield server


@pytest.fixture
def bucket(s3_server):
    """Return an empty folder in a new bucket on S3."""
    from orl_ray.folders import Folder

    with reached_by(s3_server.environment()):
        yield Folder(s3_server.create_bucket(f"bucket-{uuid.uuid4().hex[:12]}")) / "some/folder"
