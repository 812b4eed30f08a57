"""Source images for the ingest: the bytes of each entry of a listing, or why they cannot be had.

What passes with time, a storage service that does not answer, is raised and fails the part; what does not pass is
returned as a :class:`~orl_ray.scenes.decode.BadImageError` and goes to quarantine.
"""

import errno
import os
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any, TypeVar

from orl_ray.config import Config
from orl_ray.folders import CredentialsError, Folder
from orl_ray.scenes.decode import FORBIDDEN, MISSING, BadImageError
from orl_ray.scenes.folder_source import is_inside
from orl_ray.scenes.parquet_source import UnusableFileError, read_images
from orl_ray.scenes.sources import SourceFolder, source_folders
from orl_ray.storage import Store

Row = dict[str, Any]
Found = bytes | BadImageError
_Wanted = TypeVar("_Wanted")
_Read = TypeVar("_Read")

# Requests on their way at once, from a remote folder.
_AHEAD, _SPANS_AHEAD = 8, 2
# Images of a tar are fetched together: up to so many bytes, with gaps (headers, captions) of at most so many.
_SPAN_BYTES, _GAP_BYTES = 8 * 2**20, 64 * 2**10


def read_entries(
    config: Config, store: Store, rows: Sequence[Row], split: str = "train"
) -> Iterator[tuple[Row, Found]]:
    """Yield (row, encoded image or why there is none) of each row of a listing, in order.

    Files of their own are read one by one, from a remote folder a few ahead. Containers are read in their own order,
    each range or row group once, by way of a temporary file; so memory is bounded by a few images, and the local disk
    by the part.

    Args:
        config: the config.
        store: the store, which holds generated scenes.
        rows: rows of schema ``LISTING``.
        split: the split that they are of.

    Raises:
        StorageUnavailableError: a storage service did not answer, after retries.
        OSError: a disk failed.
    """
    folders = {folder.prefix: folder for folder in source_folders(config, store, split)}
    if any(row["container"] is not None for row in rows):
        yield from _in_order(rows, _from_containers(config, folders, rows))
    else:
        places = [_place(folders, row["path"]) for row in rows]
        ahead = 1 if all(folder.is_local for folder, _ in places) else _AHEAD
        yield from zip(rows, _read_ahead(places, lambda place: read_file(*place), ahead), strict=True)


def read_file(folder: Folder, path: str) -> Found:
    """Read an image file, or say why that will never do.

    On a disk, a path that leads out of the folder, also by links, is refused.

    Raises:
        StorageUnavailableError: a storage service did not answer, after retries.
        OSError: a disk failed, or a service does not accept us.
    """
    try:
        if folder.is_local:
            _check_local(folder, path)
        return folder.read(path)
    except (BadImageError, OSError) as error:
        return _permanent(error)


def _permanent(error: BadImageError | OSError) -> BadImageError:
    """Say in one line what will never do; raise everything else again."""
    if isinstance(error, BadImageError):
        return error
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # the latter: a part of its path is a file now
        return BadImageError(MISSING)
    if isinstance(error, PermissionError) and not isinstance(error, CredentialsError):
        return BadImageError(FORBIDDEN)
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return BadImageError(os.strerror(error.errno).lower())
    raise error


def _check_local(folder: Folder, path: str) -> None:
    root = os.path.realpath(folder.local)
    place = os.path.realpath(f"{root}/{path}")
    if not is_inside(place, root):
        raise BadImageError("leaves the source")
    if not stat.S_ISREG(os.stat(place).st_mode):  # noqa: PTH116 -- each image
        raise BadImageError(MISSING)


def _place(folders: dict[str, SourceFolder], path: str) -> tuple[Folder, str]:
    """Return the folder that a listed path lies in, and the path in it."""
    prefix = "" if "" in folders else path.partition("/")[0] + "/"
    return folders[prefix].images, path.removeprefix(prefix)


def _read_ahead(wanted: Sequence[_Wanted], read: Callable[[_Wanted], _Read], ahead: int) -> Iterator[_Read]:
    """Read one after the other, or with a few requests on their way; results come in order."""
    if ahead == 1:
        yield from map(read, wanted)
        return
    pool, open_reads = ThreadPoolExecutor(ahead, thread_name_prefix="source"), deque[Future[_Read]]()
    try:
        for one in wanted:
            if len(open_reads) == 2 * ahead:
                yield open_reads.popleft().result()
            open_reads.append(pool.submit(read, one))
        while open_reads:
            yield open_reads.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(rows: Sequence[Row], found: Iterator[tuple[Row, Found]]) -> Iterator[tuple[Row, Found]]:
    """Put what was found in any order into the order of the rows."""
    with tempfile.TemporaryFile(prefix="orl-source-") as spool:
        places: dict[int, tuple[int, int] | BadImageError] = {}
        for row, image in found:
            if isinstance(image, bytes):
                places[row["image_id"]] = spool.tell(), len(image)
                spool.write(image)
            else:
                places[row["image_id"]] = image
        for row in rows:
            place = places[row["image_id"]]
            if isinstance(place, BadImageError):
                yield row, place
            else:
                spool.seek(place[0])
                yield row, spool.read(place[1])


def _from_containers(
    config: Config, folders: dict[str, SourceFolder], rows: Sequence[Row]
) -> Iterator[tuple[Row, Found]]:
    by_place = sorted(rows, key=lambda row: (row["container"], row["offset"]))
    for container, group in groupby(by_place, key=lambda row: str(row["container"])):
        folder, file = _place(folders, container)
        missing = {row["image_id"]: row for row in group}
        try:
            if folder.is_local:
                _check_local(folder, file)
            for row, image in _from_container(config, folder, file, list(missing.values())):
                del missing[row["image_id"]]
                yield row, image
        except (BadImageError, OSError) as error:
            problem = _permanent(error)
            yield from ((row, problem) for row in missing.values())


def _from_container(config: Config, folder: Folder, file: str, rows: list[Row]) -> Iterator[tuple[Row, Found]]:
    if config.source.kind == "parquet":
        return _from_parquet(folder, file, rows, config.source.image_column)
    return _from_tar(folder, file, rows)


def _from_parquet(folder: Folder, file: str, rows: list[Row], image_column: str) -> Iterator[tuple[Row, Found]]:
    missing = {row["offset"]: row for row in rows}
    reason = "no image in this row"
    try:
        for number, image in read_images(folder, file, [row["offset"] for row in rows], image_column):
            yield missing.pop(number), image
    except UnusableFileError as error:
        reason = str(error)
    yield from ((row, BadImageError(reason)) for row in missing.values())


def _from_tar(folder: Folder, file: str, rows: list[Row]) -> Iterator[tuple[Row, Found]]:
    def read(span: list[Row]) -> bytes:
        start = span[0]["offset"]
        return folder.read_range(file, start, span[-1]["offset"] + span[-1]["bytes"] - start)

    spans = list(_spans(rows))
    for span, data in zip(spans, _read_ahead(spans, read, 1 if folder.is_local else _SPANS_AHEAD), strict=True):
        for row in span:
            start = row["offset"] - span[0]["offset"]
            image = data[start : start + row["bytes"]]
            yield row, image if len(image) == row["bytes"] else BadImageError("truncated: the tar ends before")


def _spans(rows: list[Row]) -> Iterator[list[Row]]:
    """Group the images of a tar, by rising offset, into ranges that are worth one request each."""
    span: list[Row] = []
    for row in rows:
        if span:
            gap = row["offset"] - span[-1]["offset"] - span[-1]["bytes"]
            if gap > _GAP_BYTES or row["offset"] + row["bytes"] - span[0]["offset"] > _SPAN_BYTES:
                yield span
                span = []
        span.append(row)
    if span:
        yield span
