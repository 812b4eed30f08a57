"""Advice on errors of storage: it names what to look at, and no password."""

import pytest

from orl_ray.folders import StorageUnavailableError
from orl_ray.folders.diagnosis import explain


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("http://127.0.0.1:9000", "AWS_ENDPOINT_URL=http://127.0.0.1:9000 right"),
        ("https://me:secret@minio.example", "AWS_ENDPOINT_URL=https://minio.example right"),
    ],
)
def test_a_service_that_does_not_answer_is_named_without_its_password(monkeypatch, endpoint, told):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    text = explain(StorageUnavailableError("s3://bucket: no answer"), "s3://bucket")
    assert told in text
    assert "secret" not in text
