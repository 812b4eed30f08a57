"""Every kind of folder."""

import uuid

import pytest
from object_store import reached_by

from orl_ray.folders import Folder


@pytest.fixture(params=["s3", "gs"])
def server(request):
    """A server of object storage."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture(params=["local", "s3", "gs"])
def folder(request, tmp_path):
    """An empty folder of each kind."""
    if request.param == "local":
        yield Folder(tmp_path / "folder")
        return
    server = request.getfixturevalue(f"{request.param}_server")
    with reached_by(server.environment()):
        yield Folder(server.create_bucket(f"bucket-{uuid.uuid4().hex[:12]}")) / "some/folder"
