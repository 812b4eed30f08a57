"""A source's entries as the numbered parts of its listing, in source order, and its quarantine."""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import schema
from orl_ray.scenes.spool import Spool
from orl_ray.storage import TABLE, PartRecord, Store, parquet_bytes

# A part ends early where more bad entries than this stand between its images.
_MOST_BAD = 10_000


def numbered_rows(
    spool: Spool,
    later: NDArray[np.int64],
    first: NDArray[np.int64],
    chosen: NDArray[np.int64] | None = None,
) -> Iterator[pa.Table]:
    """Read a spool again, duplicates marked as what they are.

    Args:
        spool: the entries.
        later: (d,) positions of duplicates, ascending.
        first: (d,) positions of the entries that have their ids.
        chosen: positions to keep, ascending; None keeps all.

    Yields:
        Tables of schema :data:`~orl_ray.scenes.spool.ROWS` in source order: rows with a ``reason`` are for the
        quarantine.
    """
    start = 0
    for batch in spool.batches():
        at, end = slice(*np.searchsorted(later, [start, start + len(batch)])), start + len(batch)
        table = pa.Table.from_batches([batch])
        if len(later[at]):
            table = _mark_duplicates(table, spool, later[at] - start, first[at], start)
        if chosen is not None:
            table = table.take(chosen[slice(*np.searchsorted(chosen, [start, end]))] - start)
        yield table
        start = end


def write_parts(
    store: Store,
    key: str,
    rows: Iterable[pa.Table],
    part_size: int,
    first_index: int = 0,
    facts: dict[str, Any] | None = None,
) -> list[PartRecord]:
    """Write listed rows in numbered parts, each sorted by id.

    Args:
        store: the store.
        key: the listing's key.
        rows: tables of schema :data:`~orl_ray.scenes.spool.ROWS`, as :func:`numbered_rows` yields them.
        part_size: images a part.
        first_index: number of the first part: those of a rescan follow the ones that are there.
        facts: for the record of the first part.

    Returns:
        The records, in part order. Memory is bounded by two parts, or :data:`_MOST_BAD` bad entries.
    """
    records = []
    for index, part in enumerate(_parts(rows, part_size), first_index):
        is_bad = part["reason"].is_valid()
        table = part.filter(pa.compute.invert(is_bad)).select(schema.LISTING.names).sort_by("image_id")
        bad = part.filter(is_bad).select(["image_id", "path", "reason"]).to_pylist()
        quarantine = [(row["image_id"], row["path"], row["reason"]) for row in bad]
        files = {TABLE: parquet_bytes(table.cast(schema.LISTING))}
        own_facts = facts if index == first_index else None
        part_key = f"{key}-{index:06d}"
        records.append(
            store.write_part("listing", part_key, index, files, rows=len(table), quarantine=quarantine, facts=own_facts)
        )
    return records


def _parts(rows: Iterable[pa.Table], part_size: int) -> Iterator[pa.Table]:
    """Cut a stream of rows behind every ``part_size``-th good one; bad ones at the very end go to the last part."""
    held: pa.Table | None = None
    is_open, good, bad = [], 0, 0
    for table in rows:
        while len(table):
            is_bad = table["reason"].is_valid().to_numpy()
            at_good = np.searchsorted(np.cumsum(~is_bad), part_size - good)
            at_bad = np.searchsorted(np.cumsum(is_bad), _MOST_BAD - bad)
            end = int(min(at_good, at_bad)) + 1
            piece, table = table.slice(0, end), table.slice(end)  # noqa: PLW2901 -- what is left of it
            is_open.append(piece)
            bad += int(is_bad[:end].sum())
            good += len(piece) - int(is_bad[:end].sum())
            if good == part_size or bad == _MOST_BAD:
                if held is not None:
                    yield held
                held, is_open, good, bad = pa.concat_tables(is_open), [], 0, 0
    if held is not None and good:
        yield held
        held = None
    rest = [table for table in (held, *is_open) if table is not None]
    if rest:
        yield pa.concat_tables(rest)


def _mark_duplicates(
    table: pa.Table, spool: Spool, rows: NDArray[np.int64], first: NDArray[np.int64], start: int
) -> pa.Table:
    ids, reasons = table["image_id"].to_pylist(), table["reason"].to_pylist()
    order = np.argsort(first, kind="stable")
    holders = dict(zip(order.tolist(), spool.paths(first[order]), strict=True))
    for number, row in enumerate(rows.tolist()):
        path, holder = table["path"][row].as_py(), holders[number]
        if path != holder and unicodedata.normalize("NFC", path) == unicodedata.normalize("NFC", holder):
            reasons[row] = f"the same name in another Unicode spelling: {holder!a} stands before it"
        else:
            reasons[row] = f"duplicate id: {holder} has {ids[row]} already"
        ids[row] = -1 - start - row
    for name, values in (("image_id", ids), ("reason", reasons)):
        position = table.schema.get_field_index(name)
        field = table.schema.field(position)
        table = table.set_column(position, field, pa.array(values, field.type))
    return table
