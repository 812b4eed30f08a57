"""Compare a source with what was listed of it, and list what is new."""

import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray.config import Config
from orl_ray.scenes.listing_parts import numbered_rows, write_parts
from orl_ray.scenes.sources import entries
from orl_ray.scenes.spool import Spool, drawn, duplicates, spool_entries
from orl_ray.storage import PartRecord, Store

# What a rescan holds of each listed image at its peak.
BYTES_AN_IMAGE = 40
_EXAMPLES = 10


@dataclass(slots=True)
class RescanReport:
    """How a source differs from what was listed of it.

    Attributes:
        added: images that are listed now.
        gone: images that were listed and are not there any more; they stay what they are in the store.
        changed: images whose file changed, as its size, time or ETag says, or whose id names another file now; they
            stay what they are in the store.
        bad: entries that went to quarantine now.
        examples: "added", "gone" and "changed" -> paths of up to ten.
    """

    added: int = 0
    gone: int = 0
    changed: int = 0
    bad: int = 0
    examples: dict[str, list[str]] = field(default_factory=lambda: {"added": [], "gone": [], "changed": []})

    def lines(self) -> list[str]:
        """Say it to people."""
        lines = [f"rescan: {self.added} images added, {self.gone} gone, {self.changed} changed, {self.bad} bad entries"]
        for what, paths in self.examples.items():
            more = ", ..." if getattr(self, what) > len(paths) else ""
            lines += [f"  {what}: {', '.join(paths)}{more}"] if paths else []
        return lines


@dataclass(frozen=True, slots=True)
class _Listed:
    """What was listed, by rising id: 16 bytes an image, about 40 while it is read.

    Attributes:
        ids: (n,) int64.
        paths: (n,) uint32, CRC of each path.
        stamps: (n,) uint32, CRC of each size and stamp, 0 where the stamp is not known.
        bad: (path, reason) of what was quarantined.
    """

    ids: NDArray[np.int64]
    paths: NDArray[np.uint32]
    stamps: NDArray[np.uint32]
    bad: set[tuple[str, str]]


def rescan(
    config: Config, store: Store, old_records: Sequence[PartRecord], key: str
) -> tuple[list[PartRecord], RescanReport]:
    """List a source again; write what was not listed yet in parts behind those that are there.

    Images are compared by their ids; what changed or is gone is told and left alone. With ``source.limit``, what the
    draw takes of the grown source and was not listed yet is added.

    Args:
        config: the config.
        store: the store.
        old_records: all parts of the listing, in part order.
        key: the listing's key.

    Returns:
        The records of the new parts, and what differs. Memory: :data:`BYTES_AN_IMAGE` an image that was listed.

    Raises:
        ValueError: the source is not there, or is broken as a whole.
    """
    listed, report = _read_listed(store, old_records), RescanReport()
    with tempfile.TemporaryDirectory(prefix="orl-rescan-") as scratch:
        spool = spool_entries(entries(config, store), Path(scratch))
        later, first = duplicates(spool)
        _compare(spool, later, listed, store, old_records, report)
        chosen = drawn(spool, config.source.limit, config.seed) if config.source.limit else None
        rows = _new_rows(numbered_rows(spool, later, first, chosen), listed, report)
        first_index = max((record.index for record in old_records), default=-1) + 1
        records = write_parts(store, key, rows, config.source.part_size, first_index)
    report.added = sum(record.rows for record in records)
    report.bad = sum(record.quarantined for record in records)
    return records, report


def _read_listed(store: Store, records: Sequence[PartRecord]) -> _Listed:
    ids, paths, stamps = [np.empty(0, np.int64)], [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    bad: set[tuple[str, str]] = set()
    for record in records:
        table = store.read_table("listing", record.key)
        ids.append(table["image_id"].to_numpy())
        paths.append(_path_marks(table))
        stamps.append(_stamp_marks(table))
        if record.quarantined:
            bad.update((row["path"], row["reason"]) for row in store.quarantine("listing", record.key).to_pylist())
    every = np.concatenate(ids)
    order = np.argsort(every)
    return _Listed(every[order], np.concatenate(paths)[order], np.concatenate(stamps)[order], bad)


def _path_marks(table: pa.Table) -> NDArray[np.uint32]:
    return np.array([zlib.crc32(path.encode()) for path in table["path"].to_pylist()], np.uint32)


def _stamp_marks(table: pa.Table) -> NDArray[np.uint32]:
    pairs = zip(table["bytes"].to_pylist(), table["stamp"].to_pylist(), strict=True)
    return np.array([zlib.crc32(f"{size} {stamp}".encode()) if stamp else 0 for size, stamp in pairs], np.uint32)


def _places(listed: _Listed, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the place of each id among the listed ones, and whether it is there."""
    if not len(listed.ids):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    places = np.minimum(np.searchsorted(listed.ids, ids), len(listed.ids) - 1).astype(np.int64)
    return places, listed.ids[places] == ids


def _compare(
    spool: Spool,
    later: NDArray[np.int64],
    listed: _Listed,
    store: Store,
    old_records: Sequence[PartRecord],
    report: RescanReport,
) -> None:
    """Count what changed and what is gone."""
    seen, start = np.zeros(len(listed.ids), bool), 0
    for batch in spool.batches():
        table = pa.Table.from_batches([batch])
        is_image = table["reason"].is_null().to_numpy()
        is_image[later[slice(*np.searchsorted(later, [start, start + len(table)]))] - start] = False
        start += len(table)
        places, known = _places(listed, table["image_id"].to_numpy())
        known &= is_image
        seen[places[known]] = True
        old, new = listed.stamps[places], _stamp_marks(table)
        changed = known & ((listed.paths[places] != _path_marks(table)) | ((old != new) & (old != 0) & (new != 0)))
        report.changed += int(changed.sum())
        _add_examples(report, "changed", table["path"].to_pylist(), changed)
    report.gone = int((~seen).sum())
    for record in old_records if report.gone else ():
        if len(report.examples["gone"]) < min(_EXAMPLES, report.gone):
            table = store.read_table("listing", record.key)
            places, _ = _places(listed, table["image_id"].to_numpy())
            _add_examples(report, "gone", table["path"].to_pylist(), ~seen[places])


def _new_rows(tables: Iterator[pa.Table], listed: _Listed, report: RescanReport) -> Iterator[pa.Table]:
    """Keep the images that were not listed, and the bad entries that were not quarantined."""
    for table in tables:
        is_bad = table["reason"].is_valid().to_numpy()
        _, known = _places(listed, table["image_id"].to_numpy())
        marks = list(zip(table["path"].to_pylist(), table["reason"].to_pylist(), strict=True))
        new_bad = np.array([mark[1] is not None and mark not in listed.bad for mark in marks], bool)
        new = (~is_bad & ~known) | new_bad
        _add_examples(report, "added", table["path"].to_pylist(), new & ~is_bad)
        yield table.filter(pa.array(new))


def _add_examples(report: RescanReport, what: str, paths: list[str], which: NDArray[np.bool_]) -> None:
    examples = report.examples[what]
    examples += [paths[at] for at in np.flatnonzero(which)[: _EXAMPLES - len(examples)]]
