"""The stage ``listing``: what a source holds, frozen in numbered parts, in source order."""

import contextlib
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.leases import Lease, LeaseHeldError
from orl_ray.pipeline import Stage, always, one_cpu
from orl_ray.scenes.labels import labelled_files, read_labels
from orl_ray.scenes.listing_parts import numbered_rows, write_parts
from orl_ray.scenes.rescan import BYTES_AN_IMAGE, rescan
from orl_ray.scenes.sources import entries, raise_problems, source_identity
from orl_ray.scenes.spool import Spool, drawn, duplicates, spool_entries
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import PartRecord, Store

# Declared for the task: at a million images with seven annotations each, benchmarks/coco_ingest.py sees less.
TASK_MEMORY_BYTES = 512 * 2**20
_NAMED = 5
_WAIT_SECONDS = 1.0


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


def run_listing(run: StageRun) -> None:
    """List the source in one task, and write the manifest."""
    with alone_with_listing(run):
        if run.store.manifest("listing", run.plan.key) is not None:
            return  # another run has listed it meanwhile
        task = stage_task(run, write_listing, memory=TASK_MEMORY_BYTES)
        records = outcome(run, task.remote(run.config, run.store, run.plan.key))
        run.store.write_manifest("listing", run.plan.key, records)
    for line in _odd_lines(records):
        run.progress.console.line(line)


@contextlib.contextmanager
def alone_with_listing(run: StageRun) -> Iterator[None]:
    """Wait until no other run writes this listing, and keep others from it.

    Between two readings a source may change.
    """
    lease = Lease(run.store, f"listing/{run.plan.key}", promise=run.config.execution.lease_seconds, run_id=run.run_id)
    told = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lease)
                break
            except LeaseHeldError:
                if not told:
                    run.progress.console.line("list the source: waits for another run that is at it")
                told = True
            if run.stop.wait(_WAIT_SECONDS):
                raise InterruptedError("the run has ended")
        yield


def _check_size(config: Config, spool: Spool, images: int) -> None:
    if not images:
        where = config.source.images or "the generated collection"
        rows = (row for batch in spool.batches() for row in batch.to_pylist())
        bad = [f"{row['path']}: {row['reason']}" for row in islice((row for row in rows if row["reason"]), _NAMED)]
        raise_problems(f"no images found in {where}; of its {spool.count} entries none is an image, such as", bad)
        raise ValueError(f"no images found in {where}: name another folder in source.images")
    if images <= config.mining.k:
        raise ValueError(f"mining.k is {config.mining.k}, but the source has only {images} images: lower it")


def run_rescan(run: StageRun, _deep: bool) -> list[str]:
    """List the source again in one task, and add the parts of what is new to the manifest; say what differs.

    The deep check, of what the files hold, is that of ``packed_scenes``.
    """
    with alone_with_listing(run):
        old = run.store.collection("listing", run.plan.key)
        memory = TASK_MEMORY_BYTES + BYTES_AN_IMAGE * sum(record.rows for record in old)
        task = stage_task(run, rescan, memory=memory)
        records, report = outcome(run, task.remote(run.config, run.store, old, run.plan.key))
        if records:
            run.store.write_manifest("listing", run.plan.key, [*old, *records])
    lines: list[str] = report.lines()
    return lines


def _odd_lines(records: list[PartRecord]) -> list[str]:
    """Say what is odd about a source, for people."""
    bad, images = sum(record.quarantined for record in records), sum(record.rows for record in records)
    lines = [f"{bad} of {bad + images} entries of the source are in quarantine"] if bad else []
    odd = records[0].facts.get("labels", {})
    return lines + [f"labels: {count} {what}" for what, count in odd.items() if count]


def _label_facts(config: Config, store: Store) -> dict[str, Any]:
    """Read the labels once, so that broken ones are told now, not after the trainings; say what is odd about them."""
    files = labelled_files(config, store)
    return {"labels": read_labels(files).odd} if files else {}


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
    rescan=run_rescan,
    reads_source=always,
)
