"""Images in the tars of a WebDataset: where each of them lies, so that ingest reads ranges."""

import io
import posixpath
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from orl_ray.folders import FileInfo, Folder
from orl_ray.scenes.containers import list_containers
from orl_ray.scenes.entries import EXTENSIONS, BadEntry, Entry, SourceImage, is_hidden, path_id, path_problem, readable

_BUFFER_BYTES = 2**20


def list_webdataset(folder: Folder, prefix: str = "", key: str = "") -> Iterator[Entry]:
    """List the images in all ``*.tar`` files of a folder, by rising path of the tar, then by place in it.

    The headers are read one after the other with a buffer of 1 MB (4 MB in a bucket): small images are read over,
    large ones skipped. Compressed tars cannot be read in ranges and are bad entries.

    Args:
        folder: the source's folder.
        prefix: what the paths begin with, "" or ``name/``.
        key: which files of a sample are images: what follows the first dot of their names, such as ``jpg`` or
            ``left.png``; "" takes every file with the extension of an image.

    Returns:
        An iterator over images and bad entries: members that are links or sparse, bad names, and one for each tar
        that is damaged; what stands before the damage is listed.

    Raises:
        ValueError: there is no such folder on this disk.
    """
    return _list(folder, prefix, key)


def _list(folder: Folder, prefix: str, key: str) -> Iterator[Entry]:
    for found in list_containers(folder, ".tar", prefix):
        if isinstance(found, BadEntry):
            yield found
        else:
            with folder.open(found.path) as stream:
                # A large buffer over an unbuffered local file; what comes from a bucket has one already.
                buffered = io.BufferedReader(cast("io.RawIOBase", stream), _BUFFER_BYTES) if folder.is_local else stream
                yield from _list_tar(buffered, found, prefix + found.path, key)


def _list_tar(stream: BinaryIO, file: FileInfo, container: str, key: str) -> Iterator[Entry]:
    try:
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
                if _is_image(member, key):
                    yield _entry(member, file, container)
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a broken header for the end
                yield BadEntry(container, f"damaged tar: no header at byte {tar.offset}")
    except tarfile.TarError as error:
        yield BadEntry(container, f"damaged tar: {error}")


def _is_image(member: tarfile.TarInfo, key: str) -> bool:
    name = member.name.removeprefix("./")
    if member.isdir() or is_hidden(name):
        return False
    if key:
        return posixpath.basename(name).partition(".")[2].lower() == key.lower()
    return name.lower().endswith(EXTENSIONS)


def _entry(member: tarfile.TarInfo, file: FileInfo, container: str) -> Entry:
    path = f"{container}/{posixpath.normpath(member.name)}"
    if problem := path_problem(member.name):
        return BadEntry(f"{container}/{readable(member.name)}", problem)
    if not member.isreg() or member.issparse():
        return BadEntry(path, "is not a regular file of the tar", path_id(path))
    if member.offset_data + member.size > file.bytes:
        return BadEntry(path, "is cut off by the end of the tar", path_id(path))
    return SourceImage(path_id(path), path, member.size, file.stamp, container, member.offset_data)
