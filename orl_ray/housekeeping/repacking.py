"""Pack a part of the scenes again without some of its images; the source is not needed."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from orl_ray.scenes.packs import ARTIFACT, PackWriter, read_pack
from orl_ray.scenes.takedowns import TAKEN_DOWN
from orl_ray.storage import TABLE, PartRecord, Store, StoreError, parquet_bytes


def pack_without(store: Store, key: str, image_ids: Collection[int]) -> PartRecord:
    """Pack a part again without some of its images, beside what it was, which is garbage then.

    A reader, or a crash on the way, sees the part as it was or as it is, whole. The source is not read.

    Args:
        store: the store; no run may be at it.
        key: the part of ``packed_scenes``.
        image_ids: the images, in the part or not.

    Returns:
        The new record.

    Raises:
        StoreError: the part is not there, or changed since it was written.
    """
    table, before = store.read_table(ARTIFACT, key), store.record(ARTIFACT, key)
    if before is None:
        raise StoreError(f"{ARTIFACT} {key}: no such part; run the pipeline again to make it")
    packer, places = PackWriter(store, key), []
    for row, data in read_pack(store, key, set(table["image_id"].to_pylist()) - set(image_ids)):
        places.append((row["image_id"], *packer.add(data)))
    kept = table.filter(pc.invert(pc.is_in(table["image_id"], pa.array(sorted(image_ids), pa.int64()))))
    for name, values in zip(("pack", "offset"), list(zip(*places, strict=True))[1:] or ((), ()), strict=True):
        position = kept.schema.get_field_index(name)
        kept = kept.set_column(
            position, kept.schema.field(position), pa.array(values, kept.schema.field(position).type)
        )
    written = packer.finish()
    written[TABLE] = store.write_part_file(ARTIFACT, key, TABLE, parquet_bytes(kept), beside=True)
    quarantine = [tuple(row.values()) for row in store.quarantine(ARTIFACT, key).to_pylist()]
    left_out = len(table) - len(kept)
    return store.write_part(
        ARTIFACT,
        key,
        before.index,
        {},
        rows=len(kept),
        written=written,
        quarantine=quarantine,
        seconds=before.seconds,
        environment=before.environment,
        facts={**before.facts, TAKEN_DOWN: before.facts.get(TAKEN_DOWN, 0) + left_out},
    )
