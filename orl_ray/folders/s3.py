"""Objects in an S3 bucket, through boto3: one request a small file, ETags, conditional puts.

pyarrow's file system is not used here: it asks for an object's size before each read, writes a small file in three
requests, completes half-written uploads in destructors, knows no conditional put, and leaves folder markers behind.
"""

import contextlib
import functools
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

from orl_ray.folders.backend import FileInfo, StorageUnavailableError
from orl_ray.folders.range_file import RangeFile

# Larger objects go up in parts, side by side, each retried by itself.
_SINGLE_PUT_BYTES = 16 * 2**20
_BUFFER_BYTES = 4 * 2**20
_ATTEMPTS = 8
_LONGEST_PAUSE = 10.0
_T = TypeVar("_T")


class S3Backend:
    """The objects of one bucket.

    Endpoint, region and credentials come from the usual AWS environment variables and files. ``ORL_S3_TIMEOUT`` is the
    silence, in seconds, after which a request counts as lost and is sent again (default 20).

    Args:
        bucket: its name.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Get an object, or a range of it, in one request."""
        if size == 0:
            return b""
        wanted = {"Range": f"bytes={start}-{'' if size is None else start + size - 1}"} if start or size else {}

        def get() -> bytes:
            body = _client().get_object(Bucket=self.bucket, Key=name, **wanted)["Body"]
            with contextlib.closing(body):
                data: bytes = body.read()  # may break off in the middle, which the client itself does not retry
                return data

        try:
            return self._call(get, name)
        except _RangeBeyondEndError:
            return b""

    def open(self, name: str) -> BinaryIO:
        """Open an object for random access, buffered."""
        size = int(self._call(lambda: _client().head_object(Bucket=self.bucket, Key=name), name)["ContentLength"])
        return io.BufferedReader(RangeFile(lambda start, length: self.read(name, start, length), size), _BUFFER_BYTES)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Put an object: one request, or an upload in parts that shows nothing before it is complete."""
        if len(data) <= _SINGLE_PUT_BYTES:
            body = bytes(data)
            self._call(lambda: _client().put_object(Bucket=self.bucket, Key=name, Body=body), name)
        else:
            # Each part is retried by the client; a failed upload is aborted and sent again as a whole.
            self._call(
                lambda: _client(_ATTEMPTS).upload_fileobj(io.BytesIO(data), self.bucket, name, Config=_transfer()), name
            )

    def create(self, name: str, data: bytes) -> None:
        """Put an object on the condition that there is none."""

        def put() -> None:
            _client().put_object(Bucket=self.bucket, Key=name, Body=data, IfNoneMatch="*")

        try:
            self._call(put, name)
        except FileExistsError:
            # The answer to an earlier try of ours may have been lost on its way: then what is there is ours.
            if self.read(name) != data:
                raise

    def delete(self, name: str) -> None:
        """Delete an object; fine where there is none."""
        self._call(lambda: _client().delete_object(Bucket=self.bucket, Key=name), name)

    def delete_all(self, prefix: str) -> None:
        """Delete everything below a prefix, a thousand objects a request."""
        for page in self._pages(prefix):
            keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
            if keys:
                request = {"Objects": keys, "Quiet": True}
                answer = self._call(
                    functools.partial(_client().delete_objects, Bucket=self.bucket, Delete=request), prefix
                )
                if answer.get("Errors"):
                    first = answer["Errors"][0]
                    raise OSError(f"s3://{self.bucket}/{first['Key']}: not deleted: {first.get('Message')}")

    def names(self, prefix: str) -> set[str]:
        """Return the names right below a prefix."""
        start = len(_folder_prefix(prefix))
        found: set[str] = set()
        for page in self._pages(prefix, Delimiter="/"):
            found.update(entry["Key"][start:] for entry in page.get("Contents", ()))
            found.update(entry["Prefix"][start:].rstrip("/") for entry in page.get("CommonPrefixes", ()))
        return found - {""}

    def files(self, prefix: str) -> Iterator[FileInfo]:
        """Yield all objects below a prefix; S3 lists them in the order of their UTF-8 bytes, which is code points'."""
        start = len(_folder_prefix(prefix))
        for page in self._pages(prefix):
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # the marker of an empty folder
                    yield FileInfo(entry["Key"][start:], int(entry["Size"]), str(entry["ETag"]).strip('"'))

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name, or one below it."""
        try:
            if name:
                self._call(lambda: _client().head_object(Bucket=self.bucket, Key=name), name)
                return True
        except FileNotFoundError:
            pass
        return any(page.get("Contents") for page in self._pages(name, MaxKeys=1))

    def _pages(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        # Not boto3's paginator: a page that fails must be asked for again by itself, not the whole listing.
        token: dict[str, str] = {}
        while True:
            listing = functools.partial(
                _client().list_objects_v2, Bucket=self.bucket, Prefix=_folder_prefix(prefix), **options, **token
            )
            page: dict[str, Any] = self._call(listing, prefix)
            yield page
            if not page.get("IsTruncated") or "MaxKeys" in options:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _call(self, request: Callable[[], _T], name: str) -> _T:
        """Send a request; retry what passes with time; give what does not pass a plain error.

        The pauses double, with full jitter, so that many workers do not come back together.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except Exception as error:
                failure = _failure(error, f"s3://{self.bucket}/{name}")
                last = attempt + 1 == _ATTEMPTS
                if not isinstance(failure, StorageUnavailableError) or last:
                    raise failure from error
                time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.2 * 2**attempt)))
        raise AssertionError("unreachable")


class _RangeBeyondEndError(Exception):
    """A range that begins behind the end of its object."""


def _failure(error: Exception, uri: str) -> Exception:
    """Say in the words of this package what went wrong."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
    from urllib3.exceptions import HTTPError

    cause = error.__context__ or error if isinstance(error, S3UploadFailedError) else error
    if isinstance(cause, NoCredentialsError | PartialCredentialsError):
        return PermissionError(f"{uri}: no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role")
    if isinstance(cause, ClientError):
        return _answer(cause.response, uri)
    if isinstance(cause, BotoCoreError | HTTPError | ConnectionError | TimeoutError):
        return StorageUnavailableError(f"{uri}: {' '.join(str(cause).split())}")
    return error


def _answer(response: dict[str, Any], uri: str) -> Exception:
    """Say what an answer means that is not the one we hoped for."""
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(response.get("Error", {}).get("Code", ""))
    text = f"{uri}: {status} {code} {response.get('Error', {}).get('Message', '')}".strip()
    if status >= 500 or status in (409, 429) or code in ("SlowDown", "RequestTimeout", "Throttling"):
        return StorageUnavailableError(text)
    if code == "NoSuchBucket":
        return FileNotFoundError(f"{uri}: there is no such bucket")
    by_status = {
        401: PermissionError(text),
        403: PermissionError(text),
        404: FileNotFoundError(uri),
        412: FileExistsError(uri),
        416: _RangeBeyondEndError(uri),
    }
    return by_status.get(status, OSError(text))


def _folder_prefix(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""


# One client for all buckets of a process: clients are safe to share between threads, but slow to make.
_client_lock = threading.Lock()


@functools.cache
def _make_client(_process: int, attempts: int) -> Any:
    import boto3
    from botocore.config import Config

    timeout = float(os.environ.get("ORL_S3_TIMEOUT", "20"))
    config = Config(
        connect_timeout=min(timeout, 10),
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
    )
    return boto3.session.Session().client("s3", config=config)


def _client(attempts: int = 1) -> Any:
    """Return this process's client: a forked child must not share its parent's connections."""
    with _client_lock:
        return _make_client(os.getpid(), attempts)


@functools.cache
def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    part = _SINGLE_PUT_BYTES
    return TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=4)
