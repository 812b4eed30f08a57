"""The stage ``listing``: what a source holds, frozen in numbered parts, in source order."""

import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import schema
from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.pipeline import Stage, one_cpu
from orl_ray.scenes.labels import has_labels, read_labels
from orl_ray.scenes.sources import entries, raise_problems, source_folders, source_identity
from orl_ray.scenes.spool import Spool, drawn, duplicates, spool_entries
from orl_ray.storage import TABLE, PartRecord, Store, parquet_bytes

# Declared for the task: what benchmarks/coco_ingest.py sees is less, whatever the size of the source.
TASK_MEMORY_BYTES = 512 * 2**20
# A part ends early where more bad entries than this stand between its images.
_MOST_BAD = 10_000
_NAMED = 5


def write_listing(config: Config, store: Store, key: str) -> list[PartRecord]:
    """List a source in source order, in parts of ``source.part_size`` images by rising id; runs in a task.

    Entries that cannot be images, and those whose id an earlier one has, go to the quarantine of the part in which
    they stand.

    Args:
        config: the config.
        store: the store.
        key: the listing's key; part i gets ``<key>-<i as six digits>``.

    Raises:
        ValueError: the source is not there, is empty, is broken as a whole, or too small for ``mining.k``.
    """
    with tempfile.TemporaryDirectory(prefix="orl-listing-") as scratch:
        spool = spool_entries(entries(config, store), Path(scratch))
        later, first = duplicates(spool)
        chosen = drawn(spool, config.source.limit, config.seed) if config.source.limit else None
        left_out = np.union1d(spool.bad, later)
        images = spool.count - len(left_out)
        if chosen is not None:
            images = len(chosen) - int(np.isin(chosen, left_out, assume_unique=True).sum())
        _check_size(config, spool, images)
        facts = _label_facts(config, store)
        rows = numbered_rows(spool, later, first, chosen)
        return write_parts(store, key, rows, config.source.part_size, facts=facts)


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


def run_listing(run: StageRun) -> None:
    """List the source in one task, and write the manifest."""
    import ray

    task = ray.remote(num_cpus=1, memory=TASK_MEMORY_BYTES)(write_listing)
    records = ray.get(task.remote(run.config, run.store, run.plan.key))
    run.store.write_manifest("listing", run.plan.key, records)
    for line in _odd_lines(records):
        run.progress.console.line(line)


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
            reasons[row] = f"the same name in another Unicode spelling stands before it: {holder!a}"
        else:
            reasons[row] = f"duplicate id {ids[row]}: {holder} has it"
        ids[row] = -1 - start - row
    for name, values in (("image_id", ids), ("reason", reasons)):
        position = table.schema.get_field_index(name)
        field = table.schema.field(position)
        table = table.set_column(position, field, pa.array(values, field.type))
    return table


def _check_size(config: Config, spool: Spool, images: int) -> None:
    if not images:
        where = config.source.images or "the generated collection"
        rows = (row for batch in spool.batches() for row in batch.to_pylist())
        bad = [f"{row['path']}: {row['reason']}" for row in islice((row for row in rows if row["reason"]), _NAMED)]
        raise_problems(f"no images found in {where}; of its {spool.count} entries none is an image, such as", bad)
        raise ValueError(f"no images found in {where}: name another folder in source.images")
    if images <= config.mining.k:
        raise ValueError(f"mining.k is {config.mining.k}, but the source has only {images} images: lower it")


def _odd_lines(records: list[PartRecord]) -> list[str]:
    """Say what is odd about a source, for people."""
    bad, images = sum(record.quarantined for record in records), sum(record.rows for record in records)
    lines = [f"{bad} of {bad + images} entries of the source are in quarantine"] if bad else []
    odd = records[0].facts.get("labels", {})
    return lines + [f"labels: {count} {what}" for what, count in odd.items() if count]


def _label_facts(config: Config, store: Store) -> dict[str, Any]:
    """Read the labels once, so that broken ones are told now, not after the trainings; say what is odd about them."""
    files = [folder.annotations for folder in source_folders(config, store) if folder.annotations]
    labelled = [file for file in files if has_labels(file)]
    return {"labels": read_labels(labelled).odd} if labelled else {}


LISTING = Stage(
    name="listing",
    title="list the source",
    version=2,
    inputs=(),
    settings=(
        "seed",
        "source.kind",
        "source.image_column",
        "source.id_column",
        "source.limit",
        "source.part_size",
        "generated.images",
        "generated.side",
    ),
    scope="collection",
    budget=one_cpu,
    identity=source_identity,
    work=run_listing,
)
