"""The stage ``packed_scenes``: each source image is read once, checked, fingerprinted, and kept in a pack."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from orl_ray import schema
from orl_ray.execution import StageRun
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage, always
from orl_ray.scenes.decode import FORBIDDEN, MISSING, BadImageError, decode
from orl_ray.scenes.near_duplicates import fingerprint
from orl_ray.scenes.packs import ARTIFACT, PackWriter, read_pack
from orl_ray.scenes.reading import Quarantine
from orl_ray.scenes.source_check import check_source
from orl_ray.scenes.source_reading import Found, Row, read_entries
from orl_ray.scenes.sources import image_identity, source_folders
from orl_ray.scenes.takedowns import TAKEN_DOWN, taken_down
from orl_ray.storage import TABLE, digest, parquet_bytes


def pack_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Read, decode and pack every image of a part of the listing; what does not decode goes to quarantine.

    Where the part exists already, its quarantine is tried again: what it holds is kept, whatever became of the source.
    Images that were taken down are left out.
    """
    packer, rows, quarantine = PackWriter(context.store, part.key), [], Quarantine()
    had: Row | None = None
    listed = context.store.read_table("listing", part.inputs["listing"]).to_pylist()
    refused = taken_down(context.store)
    wanted = [entry for entry in listed if entry["image_id"] not in refused]
    for entry, data in _images(context, part, wanted):
        try:
            if isinstance(data, BadImageError):
                raise data
            had = had or entry
            image = decode(data, context.config.source.max_pixels)
        except BadImageError as error:
            quarantine.append((entry["image_id"], entry["path"], str(error)))
            continue
        pack, offset = packer.add(data)
        perceptual_hash, thumbnail = fingerprint(image)
        rows.append(
            {
                "image_id": entry["image_id"],
                "path": entry["path"],
                "width": image.shape[1],
                "height": image.shape[0],
                "content_hash": digest(data),
                "part": part.index,
                "pack": pack,
                "offset": offset,
                "bytes": len(data),
                "perceptual_hash": perceptual_hash,
                "thumbnail": thumbnail,
            }
        )
    _check_source(context, part, had, quarantine)
    table = parquet_bytes(pa.Table.from_pylist(rows, schema=schema.PACKED_SCENES))
    written = packer.finish()
    written[TABLE] = context.store.write_part_file(ARTIFACT, part.key, TABLE, table, beside=True)
    facts = {TAKEN_DOWN: len(listed) - len(wanted)}
    return PartOutput({}, rows=len(rows), written=written, quarantine=quarantine, facts=facts)


def _check_source(context: WorkerContext, part: PartPlan, had: Row | None, quarantine: Quarantine) -> None:
    """Tell a lost mount, or lost rights, from missing images: it must stop the run, and nothing be committed.

    Args:
        context: the worker's context.
        part: the part.
        had: an image whose bytes could be had, decodable or not; None where there is none.
        quarantine: what is to be left out.

    Raises:
        FileNotFoundError: none of the part's images can be had, or one that could cannot be had any more.
    """
    if context.store.record(ARTIFACT, part.key) is not None:
        return  # a retry: what is packed stays, and the rest stays in quarantine
    reasons = {reason for *_, reason in quarantine}
    if had is None:
        unmounted = reasons == {MISSING} and not _holds_files(context)
        if unmounted or FORBIDDEN in reasons <= {MISSING, FORBIDDEN}:
            raise FileNotFoundError(
                f"none of the {len(quarantine)} images of part {part.index} can be had ({', '.join(sorted(reasons))}): "
                "is the folder mounted, are its permissions right?"
            )
    elif reasons & {MISSING, FORBIDDEN}:
        ((_, again),) = read_entries(context.config, context.store, [had])
        if isinstance(again, BadImageError):
            raise FileNotFoundError(
                f"{had['path']} could be read a moment ago, and cannot any more ({again}): is a mount lost?"
            )


def _holds_files(context: WorkerContext) -> bool:
    """Tell whether every folder of the source holds a file: where a mount is lost, its folder is empty."""
    folders = source_folders(context.config, context.store)
    return all(any(True for _ in folder.images.files()) for folder in folders)


def _images(context: WorkerContext, part: PartPlan, listed: list[Row]) -> Iterator[tuple[Row, Found]]:
    """Yield the listed images of a part, by rising id: those that are packed already from there."""
    store = context.store
    if store.record(ARTIFACT, part.key) is None:
        yield from read_entries(context.config, store, listed)
        return
    known = set(store.read_table(ARTIFACT, part.key, columns=["image_id"])["image_id"].to_pylist())
    known &= {row["image_id"] for row in listed}
    packed = read_pack(store, part.key, known)
    missing = read_entries(context.config, store, [row for row in listed if row["image_id"] not in known])
    for row in listed:
        yield next(packed if row["image_id"] in known else missing)


def run_packed_scenes(run: StageRun) -> None:
    """Pack the missing parts."""
    run_parts(run, pack_part)


PACKED_SCENES = Stage(
    name=ARTIFACT,
    title="pack images",
    version=1,
    inputs=(Input("listing"),),
    settings=("source.max_pixels",),
    identity=image_identity,
    work=run_packed_scenes,
    retries=True,
    rescan=check_source,
    reads_source=always,
)
