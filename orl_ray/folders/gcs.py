"""Objects in a Google Cloud Storage bucket, through google-cloud-storage: generations, conditional puts."""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

from orl_ray.folders.backend import CredentialsError, FileInfo, StorageRefusedError, StorageUnavailableError
from orl_ray.folders.range_file import RangeFile
from orl_ray.folders.retries import request_timeout, retried

_BUFFER_BYTES = 4 * 2**20
# Larger objects go up in pieces of this size.
_PART_BYTES = 16 * 2**20
_DELETIONS_AT_ONCE = 8
_T = TypeVar("_T")


class GcsBackend:
    """The objects of one bucket.

    Credentials come from Google's application default credentials; ``STORAGE_EMULATOR_HOST`` leads to an emulator.

    Args:
        bucket: its name.

    Raises:
        ModuleNotFoundError: google-cloud-storage is not installed.
    """

    def __init__(self, bucket: str) -> None:
        try:
            import google.cloud.storage  # noqa: F401 -- told now, not at the first request in a worker
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"gs://{bucket} needs google-cloud-storage: install orl-ray with the extra gcs, 'orl-ray[gcs]'"
            ) from error
        self.bucket = bucket

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Get an object, or a range of it, in one request."""
        if size == 0:
            return b""
        wanted = {"start": start, "end": None if size is None else start + size - 1} if start or size else {}

        def get() -> bytes:
            data: bytes = self._blob(name).download_as_bytes(
                raw_download=True, single_shot_download=True, timeout=request_timeout(), retry=None, **wanted
            )
            return data

        try:
            return self._call(get, name)
        except _RangeBeyondEndError:
            return b""

    def open(self, name: str) -> BinaryIO:
        """Open an object for random access, buffered."""

        def get_size() -> int:
            blob = self._blob(name)
            blob.reload(timeout=request_timeout(), retry=None)
            return int(blob.size)

        size = self._call(get_size, name)
        return io.BufferedReader(RangeFile(lambda start, length: self.read(name, start, length), size), _BUFFER_BYTES)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Put an object: one request, or a resumable upload that shows nothing before it is complete."""
        self._call(lambda: self._put(name, data), name)

    def create(self, name: str, data: bytes) -> None:
        """Put an object on the condition that there is none."""
        try:
            self._call(lambda: self._put(name, data, if_generation_match=0), name)
        except FileExistsError:
            # The answer to an earlier try of ours may have been lost on its way: then what is there is ours.
            with contextlib.suppress(FileNotFoundError):
                if self.read(name) == data:
                    return
            raise

    def delete(self, name: str) -> None:
        """Delete an object; fine where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._call(lambda: self._blob(name).delete(timeout=request_timeout(), retry=None), name)

    def delete_all(self, prefix: str) -> None:
        """Delete everything below a prefix, several objects at a time."""
        with ThreadPoolExecutor(_DELETIONS_AT_ONCE) as pool:
            for blobs, _ in self._pages(prefix):
                list(pool.map(self.delete, [blob.name for blob in blobs]))

    def names(self, prefix: str) -> set[str]:
        """Return the names right below a prefix."""
        start = len(_folder_prefix(prefix))
        found: set[str] = set()
        for blobs, prefixes in self._pages(prefix, delimiter="/"):
            found.update(blob.name[start:] for blob in blobs)
            found.update(name[start:].rstrip("/") for name in prefixes)
        return found - {""}

    def files(self, prefix: str) -> Iterator[FileInfo]:
        """Yield all objects below a prefix; listed in the order of their UTF-8 bytes, which is code points'."""
        start = len(_folder_prefix(prefix))
        for blobs, _ in self._pages(prefix):
            for blob in blobs:
                if not blob.name.endswith("/"):  # the marker of an empty folder
                    yield FileInfo(blob.name[start:], int(blob.size), str(blob.generation))

    def half_written(self, _prefix: str) -> Iterator[str]:
        """Yield nothing: resumable uploads that do not end show nowhere, and expire after a week."""
        return iter(())

    def delete_half_written(self, prefix: str, remains: str) -> None:
        """Delete nothing: see :meth:`half_written`."""

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name, or one below it."""
        if name and self._call(lambda: self._blob(name).exists(timeout=request_timeout(), retry=None), name):
            return True
        return any(blobs for blobs, _ in self._pages(name, max_results=1))

    def _put(self, name: str, data: bytes | memoryview, **conditions: int) -> None:
        blob = self._blob(name)
        options = {"timeout": request_timeout(), "retry": None, "checksum": "crc32c", **conditions}
        if len(data) <= _PART_BYTES:
            blob.upload_from_string(bytes(data), "application/octet-stream", **options)
        else:
            blob.chunk_size = _PART_BYTES  # a resumable upload, of which so much is in memory
            blob.upload_from_file(_ViewFile(data), size=len(data), content_type="application/octet-stream", **options)

    def _pages(self, prefix: str, **options: Any) -> Iterator[tuple[list[Any], list[str]]]:
        """Yield (objects, prefixes) a page; a page that fails is asked for again by itself."""
        token: str | None = None
        while True:
            blobs, prefixes, token = self._call(functools.partial(self._page, prefix, token, options), prefix)
            yield blobs, prefixes
            if token is None or "max_results" in options:
                return

    def _page(self, prefix: str, token: str | None, options: dict[str, Any]) -> tuple[list[Any], list[str], str | None]:
        listing = _client().list_blobs(
            self.bucket,
            prefix=_folder_prefix(prefix) or None,
            page_token=token,
            fields="items(name,size,generation),prefixes,nextPageToken",
            timeout=request_timeout(),
            retry=None,
            **options,
        )
        blobs = list(next(listing.pages, ()))
        return blobs, sorted(listing.prefixes), listing.next_page_token

    def _blob(self, name: str) -> Any:
        return _client().bucket(self.bucket).blob(name)

    def _call(self, request: Callable[[], _T], name: str) -> _T:
        return retried(request, lambda error: _failure(error, f"gs://{self.bucket}/{name}"))


class _RangeBeyondEndError(Exception):
    """A range that begins behind the end of its object."""


class _ViewFile(io.RawIOBase):
    """Bytes that lie somewhere, maybe in a mapped file, as a file to be read, without a copy of them all."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._at = memoryview(data), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def _failure(error: Exception, uri: str) -> Exception:
    """Say in the words of this package what went wrong."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.cloud.storage.exceptions import DataCorruption
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    text = f"{uri}: {' '.join(str(error).split())}"
    if isinstance(error, GoogleAPICallError):
        return _answer(int(error.code or 0), text, uri)
    passing = (TransportError, DataCorruption, RequestException, HTTPError, ConnectionError, TimeoutError)
    if isinstance(error, passing):
        return StorageUnavailableError(text)
    if isinstance(error, GoogleAuthError):
        return CredentialsError(f"{text}. Set GOOGLE_APPLICATION_CREDENTIALS, or take a machine with a service account")
    return error


def _answer(status: int, text: str, uri: str) -> Exception:
    """Say what an answer means that is not the one we hoped for."""
    if status >= 500 or status in (408, 429):
        return StorageUnavailableError(text)
    by_status = {
        401: CredentialsError(text),
        403: PermissionError(text),
        404: FileNotFoundError(f"{uri}: there is no such object, or no such bucket"),
        412: FileExistsError(uri),
        416: _RangeBeyondEndError(uri),
    }
    return by_status.get(status, StorageRefusedError(text))


def _folder_prefix(prefix: str) -> str:
    return f"{prefix}/" if prefix else ""


# One client for all buckets of a process: clients are safe to share between threads, but not between processes.
_client_lock = threading.Lock()


@functools.cache
def _make_client(_process: int) -> Any:
    from google.cloud.storage import Client

    # Objects are named by their buckets; a project would only be looked for, and missed on machines without one.
    return Client(project="-")


def _client() -> Any:
    with _client_lock:
        return _make_client(os.getpid())
