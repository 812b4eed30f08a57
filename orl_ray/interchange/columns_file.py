"""Write rows that come in one order as the columns of a JSON file in another, through a file on the local disk."""

import contextlib
import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.json_file import JsonFile

# JSON as it stands, the elements of a list, or the members of an object.
Value = bytes | Iterable[bytes] | Mapping[str, "Value"]


class RowsFile:
    """Rows of JSON values on the local disk, a line a value; read again a column at a time. 8 bytes of memory a row.

    Args:
        stream: an empty file, open for writing and reading.
        count: rows.
    """

    def __init__(self, stream: BinaryIO, count: int) -> None:
        self._stream = stream
        self._starts: NDArray[np.int64] = np.full(count, -1)

    def add(self, position: int, values: Sequence[Any]) -> None:
        """Write a row: what JSON can hold for each column. Rows may come in any order, all before a column is read."""
        self._starts[position] = self._stream.tell()
        self._stream.writelines(compact(value) + b"\n" for value in values)

    def column(self, number: int) -> Iterator[bytes]:
        """Yield a column's values by position.

        Raises:
            ValueError: a row was not added.
        """
        for position, start in enumerate(self._starts.tolist()):
            if start < 0:
                raise ValueError(f"row {position} of {len(self._starts)} is missing")
            self._stream.seek(start)
            for _ in range(number):
                self._stream.readline()
            yield self._stream.readline().rstrip(b"\n")


def compact(value: Any) -> bytes:
    """Write a value as JSON on one line, without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


@contextlib.contextmanager
def published(target: JsonFile) -> Iterator[tuple[Path, Path]]:
    """Give two local files to write, for rows and for the result; the latter becomes ``target`` if all goes well.

    A local target is renamed to, a remote one uploaded; either is there whole or not at all.

    Raises:
        OSError: the target cannot be written.
    """
    folder = target.folder
    if folder.is_local:
        folder.local.mkdir(parents=True, exist_ok=True)
    beside = folder.local if folder.is_local else None
    with tempfile.TemporaryDirectory(prefix=".orl-export-", dir=beside) as scratch:
        rows, result = Path(scratch) / "rows", Path(scratch) / "result"
        yield rows, result
        with result.open("rb") as stream:
            if folder.is_local:
                os.fsync(stream.fileno())
                result.replace(folder.local / target.name)
            else:
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                    folder.write(target.name, view)


def write_json(stream: BinaryIO, value: Value) -> None:
    """Write JSON whose lists come as streams of their elements."""
    if isinstance(value, bytes):
        stream.write(value)
    elif isinstance(value, Mapping):
        stream.write(b"{")
        for number, (name, member) in enumerate(value.items()):
            stream.write(b"," * bool(number) + compact(name) + b":")
            write_json(stream, member)
        stream.write(b"}")
    else:
        stream.write(b"[")
        for number, element in enumerate(value):
            stream.write(b"," * bool(number) + element)
        stream.write(b"]")
