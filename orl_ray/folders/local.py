"""Files on a disk: whole or not at all, flushed before they count."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from orl_ray.folders.backend import FileInfo


class LocalBackend:
    """Files on this machine's disks and on what is mounted there."""

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Read a file, or a range of it; see :class:`~orl_ray.folders.backend.Backend`."""
        with self.open(name) as stream:
            stream.seek(start)
            return stream.read() if size is None else stream.read(size)

    def open(self, name: str) -> BinaryIO:
        """Open a file; a folder counts as no file."""
        try:
            return Path(name).open("rb")
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(name) from error

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a temporary neighbour, flush it to disk, rename it."""
        path = Path(name)
        temporary = _write_aside(path, data)
        try:
            temporary.replace(path)
            _flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> None:
        """Write aside, then link, which fails where the name is taken: the file is whole the moment it exists."""
        path = Path(name)
        aside = _write_aside(path, data)
        try:
            os.link(aside, path)
            _flush_folder(path.parent)
        finally:
            aside.unlink()

    def delete(self, name: str) -> None:
        """Delete a file; fine where there is none."""
        Path(name).unlink(missing_ok=True)

    def delete_all(self, prefix: str) -> None:
        """Delete a folder; fine where there is none, or where others delete it, too."""
        while Path(prefix).exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(prefix)

    def names(self, prefix: str) -> set[str]:
        """Return the names in a folder, but not those of files that are being written."""
        try:
            return {entry.name for entry in os.scandir(prefix) if not _is_temporary(entry.name)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def files(self, prefix: str) -> Iterator[FileInfo]:
        """Walk a folder, one folder's entries in memory at a time; links to folders are not followed."""
        yield from _walk(prefix, "")

    def half_written(self, prefix: str) -> Iterator[str]:
        """Yield the paths of temporary neighbours below a folder."""
        for folder, _, names in os.walk(prefix):
            yield from (f"{folder}/{name}" for name in names if _is_temporary(name))

    def delete_half_written(self, _prefix: str, remains: str) -> None:
        """Delete a temporary neighbour."""
        Path(remains).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """Tell whether there is a file, or a folder with something in it."""
        path = Path(name)
        return bool(self.names(name)) if path.is_dir() else path.exists()


def _write_aside(path: Path, data: bytes | memoryview) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:150]}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries: after a power loss a record must not outlive the files that it lists."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(root: str, prefix: str) -> Iterator[FileInfo]:
    try:
        with os.scandir(os.path.join(root, prefix)) as found:  # noqa: PTH118 -- a million joins of plain text
            entries = [entry for entry in found if not _is_temporary(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return
    # A folder sorts with its slash: "a.jpg" < "a/b.jpg" as whole paths, too.
    named = {e.name + ("/" if e.is_dir(follow_symlinks=False) else ""): e for e in entries}
    for name, entry in sorted(named.items()):
        if name.endswith("/"):
            yield from _walk(root, prefix + name)
        else:
            try:
                stat = entry.stat()
            except FileNotFoundError:  # deleted meanwhile, or a broken link
                continue
            yield FileInfo(prefix + name, stat.st_size, str(stat.st_mtime_ns))
