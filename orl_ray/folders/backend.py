"""What every place that holds files can do: the interface that local disks, S3 and Google Cloud Storage share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol


class StorageUnavailableError(OSError):
    """A storage service did not answer, or asked to come back later, after every retry; the data may be fine."""


class StorageRefusedError(OSError):
    """A storage service cannot be used as things are set up: no region, another endpoint. It says nothing of a file."""


class CredentialsError(PermissionError):
    """A storage service does not accept who we say we are, be it for a moment. It says nothing of a file."""


@dataclass(frozen=True, slots=True, order=True)
class FileInfo:
    """One file of a listing.

    Attributes:
        path: relative to what was listed, with forward slashes.
        bytes: size.
        stamp: changes when the file does: the modification time in nanoseconds on a disk, the ETag on S3, the
            generation on Google Cloud Storage.
    """

    path: str
    bytes: int
    stamp: str


class Backend(Protocol):
    """Whole files by name. Names are absolute paths on a disk, ``key`` in a bucket.

    Every method raises :class:`StorageUnavailableError` for what passes with time, ``PermissionError`` for what is
    not allowed, :class:`CredentialsError` where it is us who are not accepted, :class:`StorageRefusedError` where the
    service cannot be used as things are set up, ``FileNotFoundError`` for a bucket or file that is not there.
    """

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Read ``size`` bytes from ``start`` on, or up to the end; less where the file ends before."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for random access; reads go to storage, so buffer small ones."""

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file whole or not at all, over what may be there."""

    def create(self, name: str, data: bytes) -> None:
        """Write a file unless there is one.

        Raises:
            FileExistsError: there is one, and it does not hold ``data``.
        """

    def delete(self, name: str) -> None:
        """Delete a file; fine where there is none."""

    def delete_all(self, prefix: str) -> None:
        """Delete a folder with all that is in it; fine where there is none."""

    def names(self, prefix: str) -> set[str]:
        """Return the names of a folder's files and folders; none where there is no such folder."""

    def files(self, prefix: str) -> Iterator[FileInfo]:
        """Yield all files below a folder, by rising path in code point order, in bounded memory."""

    def half_written(self, prefix: str) -> Iterator[str]:
        """Yield what writers that were killed left below a folder, or what others are writing now, by any name."""

    def delete_half_written(self, prefix: str, remains: str) -> None:
        """Delete one of :meth:`half_written`; fine where it is gone."""

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name, or a folder that is not empty."""
