"""Rows of any order as whole parts: each part comes as soon as its last image is there.

In the order of the source only a part or two are open at a time. In any other order, what is open goes to files on
the local disk whenever it is more than the memory that it may take.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

# Bytes of rows that are open at a time, in arrays.
MOST_OPEN_BYTES = 256 * 2**20

Tables = dict[str, pa.Table]


class PlacedRow(NamedTuple):
    """One image's row of a file.

    Attributes:
        part: the position of its part.
        row: whatever ``tables_of`` makes tables of.
        bytes: about what it takes in memory.
    """

    part: int
    row: Any
    bytes: int


def regroup(
    rows: Iterable[PlacedRow],
    sizes: Sequence[int],
    tables_of: Callable[[list[Any]], Tables],
    scratch: Path,
    most_bytes: int = MOST_OPEN_BYTES,
) -> Iterator[tuple[int, Tables]]:
    """Collect rows into parts.

    Args:
        rows: a row an image, in any order.
        sizes: images of each part.
        tables_of: makes tables of rows, by name; each with a column ``image_id``, the rows of an image together.
        scratch: an empty local folder; it takes what of an unordered file is open.
        most_bytes: bytes of rows that may be open in memory.

    Yields:
        (part, its tables by rising ``image_id``) of each part of which all images came, empty parts first. Memory is
        bounded by ``most_bytes`` and one part.
    """
    for part in np.flatnonzero(np.array(sizes) == 0).tolist():
        yield part, tables_of([])
    came = np.zeros(len(sizes), np.int64)
    held: defaultdict[int, list[PlacedRow]] = defaultdict(list)
    spilled: defaultdict[int, list[Path]] = defaultdict(list)
    open_bytes = 0
    for placed in rows:
        part = placed.part
        held[part].append(placed)
        came[part] += 1
        open_bytes += placed.bytes
        if came[part] == sizes[part]:
            whole = held.pop(part)
            open_bytes -= sum(other.bytes for other in whole)
            yield part, _sorted([*map(_read, spilled.pop(part, ())), tables_of([other.row for other in whole])])
        elif open_bytes > most_bytes:
            for other_part, others in held.items():
                folder = scratch / f"{other_part}-{came[other_part]}"
                _spill(tables_of([other.row for other in others]), folder)
                spilled[other_part].append(folder)
            held.clear()
            open_bytes = 0


def _spill(tables: Tables, folder: Path) -> None:
    folder.mkdir()
    for name, table in tables.items():
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def _read(folder: Path) -> Tables:
    tables = {}
    for path in folder.iterdir():
        with pa.OSFile(str(path)) as file:
            tables[path.name] = pa.ipc.open_file(file).read_all()
        path.unlink()
    folder.rmdir()
    return tables


def _sorted(pieces: Sequence[Tables]) -> Tables:
    tables = {}
    for name in pieces[0]:
        table = pa.concat_tables([piece[name] for piece in pieces]).combine_chunks()
        ids = table["image_id"].to_numpy()
        # Only where they are unordered: to take rows by index copies them all.
        tables[name] = table if (ids[1:] >= ids[:-1]).all() else table.take(np.argsort(ids, kind="stable"))
    return tables
