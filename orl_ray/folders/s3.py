"""Objects in an S3 bucket, through boto3: one request a small file, ETags, conditional puts.

pyarrow's file system is not used here: it asks for an object's size before each read, writes a small file in three
requests, completes half-written uploads in destructors, knows no conditional put, and leaves folder markers behind.
"""

import contextlib
import functools
import io
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

from orl_ray.folders.backend import CredentialsError, FileInfo, StorageRefusedError, StorageUnavailableError
from orl_ray.folders.range_file import RangeFile
from orl_ray.folders.retries import request_timeout, retried

# Larger objects go up in parts of this size, side by side, each retried by itself.
_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 4
_BUFFER_BYTES = 4 * 2**20
_UPLOAD = "orl-upload"
_T = TypeVar("_T")


class S3Backend:
    """The objects of one bucket.

    Endpoint, region and credentials come from the usual AWS environment variables and files.

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
        if len(data) <= _PART_BYTES:
            body = bytes(data)
            self._call(lambda: _client().put_object(Bucket=self.bucket, Key=name, Body=body), name)
        else:
            self._upload(name, memoryview(data))

    def create(self, name: str, data: bytes) -> None:
        """Put an object on the condition that there is none."""

        def put() -> None:
            _client().put_object(Bucket=self.bucket, Key=name, Body=data, IfNoneMatch="*")

        try:
            self._call(put, name)
        except FileExistsError:
            # The answer to an earlier try of ours may have been lost on its way: then what is there is ours.
            with contextlib.suppress(FileNotFoundError):
                if self.read(name) == data:
                    return
            raise

    def delete(self, name: str) -> None:
        """Delete an object; fine where there is none."""
        self._call(lambda: _client().delete_object(Bucket=self.bucket, Key=name), name)

    def delete_all(self, prefix: str) -> None:
        """Delete everything below a prefix, a thousand objects a request."""
        for page in self._pages(prefix):
            keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
            if keys:
                self._call(functools.partial(self._delete_keys, keys), prefix)

    def _delete_keys(self, keys: list[dict[str, str]]) -> None:
        from botocore.exceptions import ClientError

        answer = _client().delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})
        for problem in answer.get("Errors", ()):
            # Each key has an answer of its own, inside one of 200.
            status = 403 if problem.get("Code") == "AccessDenied" else 503
            raise ClientError({"Error": problem, "ResponseMetadata": {"HTTPStatusCode": status}}, "DeleteObjects")

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

    def half_written(self, prefix: str) -> Iterator[str]:
        """Yield ``key upload-id`` of uploads in parts that are not complete: they cost money, and show nowhere."""
        marker: dict[str, str] = {}
        while True:
            options = {"Bucket": self.bucket, "Prefix": _folder_prefix(prefix), **marker}
            page = self._call(lambda options=options: _client().list_multipart_uploads(**options), prefix)  # type: ignore[misc]
            yield from (f"{upload['Key']} {upload['UploadId']}" for upload in page.get("Uploads", []))
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def delete_half_written(self, prefix: str, remains: str) -> None:
        """Abort an upload in parts."""
        key, _, upload = remains.rpartition(" ")
        abort = functools.partial(_client().abort_multipart_upload, Bucket=self.bucket, Key=key, UploadId=upload)
        with contextlib.suppress(FileNotFoundError):
            self._call(abort, prefix)

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

    def _upload(self, name: str, data: memoryview) -> None:
        """Put a large object in parts; nothing shows before the last request completes the upload."""
        client, target = _client(), {"Bucket": self.bucket, "Key": name}
        token = uuid.uuid4().hex
        options: dict[str, Any] = {"Metadata": {_UPLOAD: token}}
        if client.meta.config.request_checksum_calculation == "when_supported":
            options["ChecksumAlgorithm"] = "CRC32"  # what boto3 sends with each part then
        upload_id = self._call(lambda: client.create_multipart_upload(**target, **options), name)["UploadId"]
        upload = {**target, "UploadId": upload_id}

        def put(number: int) -> dict[str, Any]:
            body = bytes(data[(number - 1) * _PART_BYTES : number * _PART_BYTES])
            answer = self._call(lambda: client.upload_part(**upload, PartNumber=number, Body=body), name)
            told = {key: answer[key] for key in ("ETag", "ChecksumCRC32") if key in answer}
            return {"PartNumber": number, **told}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                parts = list(pool.map(put, range(1, -(-len(data) // _PART_BYTES) + 1)))
            complete = functools.partial(client.complete_multipart_upload, **upload, MultipartUpload={"Parts": parts})
            self._call(complete, name)
        except BaseException as error:
            # The answer to an earlier try may have been lost: then the upload is gone because it is complete.
            if isinstance(error, FileNotFoundError) and self._holds_upload(name, token):
                return
            with contextlib.suppress(Exception):  # its parts cost money, but show nowhere
                client.abort_multipart_upload(**upload)
            raise

    def _holds_upload(self, name: str, token: str) -> bool:
        try:
            head = self._call(lambda: _client().head_object(Bucket=self.bucket, Key=name), name)
        except FileNotFoundError:
            return False
        return bool(head["Metadata"].get(_UPLOAD) == token)

    def _call(self, request: Callable[[], _T], name: str) -> _T:
        return retried(request, lambda error: _failure(error, f"s3://{self.bucket}/{name}"))


class _RangeBeyondEndError(Exception):
    """A range that begins behind the end of its object."""


def _failure(error: Exception, uri: str) -> Exception:
    """Say in the words of this package what went wrong."""
    from botocore import exceptions as aws
    from urllib3.exceptions import HTTPError

    text = f"{uri}: {' '.join(str(error).split())}"
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError):
        return CredentialsError(
            f"{uri}: no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
        )
    if isinstance(error, aws.ClientError):
        return _answer(error.response, uri)
    passing = (
        *(aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError, aws.FlexibleChecksumError),
        *(aws.MetadataRetrievalError, aws.CredentialRetrievalError),
        *(HTTPError, ConnectionError, TimeoutError),
    )
    if isinstance(error, passing):
        return StorageUnavailableError(text)
    if isinstance(error, aws.BotoCoreError):  # no region, no such profile: time does not mend these
        return StorageRefusedError(text)
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
        401: CredentialsError(text),
        403: PermissionError(text) if code in ("AccessDenied", "AllAccessDisabled", "403") else CredentialsError(text),
        404: FileNotFoundError(uri),
        412: FileExistsError(uri),
        416: _RangeBeyondEndError(uri),
    }
    return by_status.get(status, CredentialsError(text) if "Token" in code else StorageRefusedError(text))


def _folder_prefix(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""


# One client for all buckets of a process: clients are safe to share between threads, but slow to make.
_client_lock = threading.Lock()


@functools.cache
def _make_client(_process: int) -> Any:
    import boto3
    from botocore.config import Config

    timeout = request_timeout()
    config = Config(
        connect_timeout=min(timeout, 10),
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=32,
    )
    return boto3.session.Session().client("s3", config=config)


def _client() -> Any:
    """Return this process's client: a forked child must not share its parent's connections."""
    with _client_lock:
        return _make_client(os.getpid())
