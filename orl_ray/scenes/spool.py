"""A source's entries on the local disk while it is listed: of any number, with little in memory.

The spool keeps every entry in source order, and their ids once more in a file of plain integers. Duplicate ids and
the draw of ``source.limit`` come from passes over the ids; whole rows are read once more when parts are written.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import draws, schema
from orl_ray.scenes.entries import BadEntry, Entry

ROWS = pa.schema([*schema.LISTING, pa.field("reason", pa.string())])
_BATCH_ROWS = 4096
_IDS_AT_A_TIME = 2**20
# Ids that are searched for duplicates at a time: 64 MB with their positions and order.
_IDS_A_PASS = 2**20


@dataclass(frozen=True, slots=True)
class Spool:
    """Entries in source order on the local disk.

    Attributes:
        folder: holds the two files.
        count: entries.
        bad: (b,) int64 positions of the bad ones, ascending.
    """

    folder: Path
    count: int
    bad: NDArray[np.int64]

    def ids(self) -> Iterator[NDArray[np.int64]]:
        """Yield the ids in order, about a million at a time; a bad entry's is -1 - its position."""
        with (self.folder / "ids.bin").open("rb") as stream:
            while len(chunk := np.fromfile(stream, np.int64, _IDS_AT_A_TIME)):
                yield chunk

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, of schema ``ROWS``; ``reason`` is null but for bad entries."""
        with pa.OSFile(str(self.folder / "entries.arrow")) as file:
            reader = pa.ipc.open_file(file)
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)

    def paths(self, positions: NDArray[np.int64]) -> list[str]:
        """Return the paths of some entries, given by ascending position."""
        found: list[str] = []
        with pa.OSFile(str(self.folder / "entries.arrow")) as file:
            reader = pa.ipc.open_file(file)
            for index, group in itertools.groupby(positions.tolist(), lambda position: position // _BATCH_ROWS):
                column = reader.get_batch(index).column("path")
                found += [column[position % _BATCH_ROWS].as_py() for position in group]
        return found


def spool_entries(found: Iterable[Entry], folder: Path) -> Spool:
    """Write a stream of entries to a local folder.

    Args:
        found: the entries.
        folder: an empty folder; its files take about 100 bytes an entry.
    """
    stream, count, bad = iter(found), 0, []
    with (
        pa.OSFile(str(folder / "entries.arrow"), "wb") as file,
        pa.ipc.new_file(file, ROWS) as writer,
        (folder / "ids.bin").open("wb") as ids,
    ):
        while rows := list(itertools.islice(stream, _BATCH_ROWS)):
            bad += [count + at for at, entry in enumerate(rows) if isinstance(entry, BadEntry)]
            writer.write_batch(_batch(rows, count))
            unique = [-1 - count - at if isinstance(row, BadEntry) else row.image_id for at, row in enumerate(rows)]
            np.array(unique, np.int64).tofile(ids)
            count += len(rows)
    return Spool(folder, count, np.array(bad, np.int64))


def duplicates(spool: Spool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the entries whose id an earlier one has.

    Memory is bounded by about a million ids at a time, and the number of duplicates.

    Returns:
        (d,) positions of the duplicates, ascending, and the position of the first entry with each one's id.
    """
    passes = max(1, -(-spool.count // _IDS_A_PASS))
    later, first = [], []
    for number in range(passes):
        chunks, start = [], 0
        for ids in spool.ids():
            # Which pass an id belongs to: COCO's ids are small numbers, so their low bits must be mixed first.
            mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(33)
            mine = np.flatnonzero(mixed % np.uint64(passes) == number)
            chunks.append(np.stack([ids[mine], mine + start]))
            start += len(ids)
        ids, positions = np.concatenate(chunks, axis=1) if chunks else np.empty((2, 0), np.int64)
        order = np.argsort(ids, kind="stable")  # positions rise within an id
        ids, positions = ids[order], positions[order]
        is_first = np.ones(len(ids), bool)
        is_first[1:] = ids[1:] != ids[:-1]
        holder = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
        later.append(positions[~is_first])
        first.append(positions[holder[~is_first]])
    every_later, every_first = np.concatenate(later), np.concatenate(first)
    order = np.argsort(every_later)
    return every_later[order], every_first[order]


def drawn(spool: Spool, limit: int, seed: int) -> NDArray[np.int64]:
    """Draw ``limit`` entries by their ids: which ones depends on ids and seed, not on the order. Bad ones may be drawn.

    Memory is bounded by the limit and a million ids.

    Args:
        spool: the entries.
        limit: entries to keep, at least 1.
        seed: the run's seed.

    Returns:
        Positions of the entries with the smallest draws, ascending.
    """
    key = draws.stream(seed, "sources", "take")
    best, positions, start = np.empty(0), np.empty(0, np.int64), 0
    for ids in spool.ids():
        best = np.concatenate([best, draws.uniform(key, ids, 1)[:, 0]])
        positions = np.concatenate([positions, np.arange(start, start + len(ids))])
        kept = np.argsort(best, kind="stable")[:limit]
        best, positions, start = best[kept], positions[kept], start + len(ids)
    return np.sort(positions)


def _batch(rows: list[Entry], start: int) -> pa.RecordBatch:
    columns = zip(*(_row(position, entry) for position, entry in enumerate(rows, start)), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ROWS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def _row(position: int, entry: Entry) -> tuple[int, str, int, str, str | None, int | None, str | None]:
    if isinstance(entry, BadEntry):
        known = -1 - position if entry.image_id is None else entry.image_id
        return known, entry.path, -1, "", None, None, entry.reason
    return entry.image_id, entry.path, entry.bytes, entry.stamp, entry.container, entry.offset, None
