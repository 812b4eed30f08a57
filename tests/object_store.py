"""Object storage for tests, over HTTP on loopback: a server as a child process, and the environment to find it by."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

SERVERS = Path(__file__).with_name("object_servers.py")
REGION = "us-east-1"


@dataclass(frozen=True)
class ObjectStore:
    """A running server.

    Attributes:
        scheme: ``s3`` or ``gs``.
        port: on 127.0.0.1.
        pid: its process.
    """

    scheme: str
    port: int
    pid: int

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return the variables that lead clients here, or to a proxy on another port."""
        url = f"http://127.0.0.1:{port or self.port}"
        if self.scheme == "gs":
            return {"STORAGE_EMULATOR_HOST": url}
        return {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def create_bucket(self, name: str) -> str:
        """Create a bucket; return its URI."""
        if self.scheme == "s3":
            client(self).create_bucket(Bucket=name)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            body, headers = json.dumps({"name": name}), {"Content-Type": "application/json"}
            connection.request("POST", "/storage/v1/b", body, headers)
            assert connection.getresponse().status == 200
            connection.close()
        return f"{self.scheme}://{name}"


def client(store: ObjectStore):
    """Return a boto3 client that is led to the server by its arguments, whatever the environment says."""
    import boto3

    found = store.environment()
    return boto3.session.Session().client(
        "s3",
        endpoint_url=found["AWS_ENDPOINT_URL"],
        aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )


@contextlib.contextmanager
def object_store(scheme: str = "s3") -> Iterator[ObjectStore]:
    """Run a server; it ends with the block, or with this process."""
    process = subprocess.Popen(
        [sys.executable, str(SERVERS), scheme], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert line, f"the {scheme} server did not start"
        yield ObjectStore(scheme, int(line), process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@contextlib.contextmanager
def reached_by(environment: dict[str, str]) -> Iterator[None]:
    """Let this process and its children find a server; connections made before are forgotten, on both ends."""
    from orl_ray.folders import folder, gcs, s3

    with mock.patch.dict(os.environ, environment):
        for cached in (s3._make_client, gcs._make_client, folder._backend):
            cached.cache_clear()
        try:
            yield
        finally:
            for cached in (s3._make_client, gcs._make_client, folder._backend):
                cached.cache_clear()
