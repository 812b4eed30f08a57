"""A folder by its URI. Cheap, hashable, safe to send to workers: connections are made where they are used."""

import functools
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orl_ray.folders.backend import Backend, FileInfo
from orl_ray.folders.local import LocalBackend

SCHEMES = ("s3", "gs")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on a local disk, in an S3 bucket or in a Google Cloud Storage bucket.

    Paths are relative to it, with forward slashes. The S3 endpoint and credentials come from the usual AWS
    environment and files, those of Google from its application default credentials.

    Args:
        uri: a local path, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    Raises:
        ValueError: another scheme, or no bucket.
    """

    uri: str

    def __init__(self, uri: "str | Path | Folder") -> None:
        object.__setattr__(self, "uri", _normal(str(uri)))

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, path: str) -> "Folder":
        return Folder(f"{self.uri}/{path}")

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk of this machine, or on what is mounted there."""
        return "://" not in self.uri

    @property
    def local(self) -> Path:
        """The folder as a path.

        Raises:
            ValueError: it is not local.
        """
        if not self.is_local:
            raise ValueError(f"{self.uri} is not a local folder")
        return Path(self.uri)

    @property
    def name(self) -> str:
        """The last part of its URI."""
        return posixpath.basename(self.uri)

    def read(self, path: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: there is none.
            PermissionError: it may not be read.
            StorageUnavailableError: the service did not answer, after retries.
        """
        return self._backend.read(self._name(path))

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """Read ``size`` bytes from ``start`` on; less where the file ends before. Raises as :meth:`read`."""
        return self._backend.read(self._name(path), start, size)

    def open(self, path: str) -> BinaryIO:
        """Open a file for random access, for Parquet and tar. Raises as :meth:`read`."""
        return self._backend.open(self._name(path))

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write a file whole or not at all, over what may be there."""
        self._backend.write(self._name(path), data)

    def create(self, path: str, data: bytes) -> None:
        """Write a file unless there is one: of several contenders, one succeeds.

        Args:
            path: the file.
            data: its bytes; no two contenders may have the same.

        Raises:
            FileExistsError: there is one already.
        """
        self._backend.create(self._name(path), data)

    def delete(self, path: str) -> None:
        """Delete a file; fine where there is none."""
        self._backend.delete(self._name(path))

    def delete_folder(self, path: str = "") -> None:
        """Delete all files below; fine where there are none."""
        self._backend.delete_all(self._name(path))

    def names(self, path: str = "") -> set[str]:
        """Return the names of the files and folders right below; none where there is no such folder."""
        return self._backend.names(self._name(path))

    def files(self, path: str = "") -> Iterator[FileInfo]:
        """Yield all files below, by rising path in code point order, in bounded memory, with paths relative to here."""
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        for info in self._backend.files(self._name(path)):
            yield FileInfo(prefix + info.path, info.bytes, info.stamp)

    def half_written(self, path: str = "") -> Iterator[str]:
        """Yield what killed writers left below; what is being written now looks the same.

        Returns:
            Names for :meth:`delete_half_written`. Google Cloud Storage shows none, and drops them after a week.
        """
        return self._backend.half_written(self._name(path))

    def delete_half_written(self, remains: str) -> None:
        """Delete one of :meth:`half_written`; fine where it is gone."""
        self._backend.delete_half_written(self._name(""), remains)

    def exists(self, path: str = "") -> bool:
        """Tell whether there is such a file, or a folder that is not empty."""
        return self._backend.exists(self._name(path))

    @property
    def _backend(self) -> Backend:
        scheme, separator, rest = self.uri.partition("://")
        return _backend(scheme, rest.partition("/")[0]) if separator else _backend("", "")

    def _name(self, path: str) -> str:
        if self.is_local:
            return posixpath.join(self.uri, path) if path else self.uri
        key = self.uri.partition("://")[2].partition("/")[2]
        return posixpath.join(key, path).rstrip("/") if path else key


def file_at(place: str) -> tuple[Folder, str]:
    """Return the folder and the name of a file at a local path or URI."""
    path = place if "://" in place else str(Path(place).absolute())
    parent, _, name = path.rpartition("/")
    return Folder(parent or "/"), name


def _normal(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return str(Path(uri).absolute())
    if scheme not in SCHEMES:
        raise ValueError(f"{uri}: unknown scheme {scheme!r}; take a local path, s3:// or gs://")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ValueError(f"{uri}: names no bucket")
    parts = [part for part in key.split("/") if part]
    if ".." in parts or "." in parts:
        raise ValueError(f"{uri}: holds a relative part")
    return "/".join([f"{scheme}://{bucket}", *parts])


@functools.cache
def _backend(scheme: str, bucket: str) -> Backend:
    if scheme == "s3":
        from orl_ray.folders.s3 import S3Backend

        return S3Backend(bucket)
    if scheme == "gs":
        from orl_ray.folders.gcs import GcsBackend

        return GcsBackend(bucket)
    return LocalBackend()
