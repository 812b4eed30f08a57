"""The schemas: every table has an id, no column is left loose, and a stored table keeps its schema."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orl_ray import schema
from orl_ray.storage import ipc_bytes, parquet_bytes

TABLES = {
    "listing": schema.LISTING,
    "scenes": schema.SCENES,
    "proposals": schema.PROPOSALS,
    "rois": schema.ROIS,
    "shards": schema.SHARDS,
    "neighbors": schema.NEIGHBORS,
    "correspondences": schema.CORRESPONDENCES,
    "quarantine": schema.QUARANTINE,
    "image_embeddings": schema.image_embeddings(8),
    "roi_embeddings": schema.roi_embeddings(8),
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_carry_a_64_bit_image_id_that_is_never_null(name):
    field = TABLES[name].field(0)
    assert (field.name, field.type, field.nullable) == ("image_id", pa.int64(), False)


@pytest.mark.parametrize("name", TABLES)
def test_only_what_a_source_may_not_have_may_be_null(name):
    assert {field.name for field in TABLES[name] if field.nullable} <= {"levels", "container", "offset"}


@pytest.mark.parametrize("name", TABLES)
def test_boxes_are_four_int32_and_similarities_float64(name):
    for field in TABLES[name]:
        if field.name == "box":
            assert field.type == pa.list_(pa.int32(), 4)
        elif field.name.endswith("boxes"):
            assert field.type == pa.list_(pa.list_(pa.int32(), 4))
        elif field.name == "similarities":
            assert field.type == pa.list_(pa.float64())
        elif field.name == "vector":
            assert field.type == pa.list_(pa.float16(), 8)


@pytest.mark.parametrize("name", TABLES)
def test_a_stored_table_keeps_types_nullability_and_the_notes_of_its_fields(name):
    empty = TABLES[name].empty_table()
    read = pq.read_table(pa.BufferReader(parquet_bytes(empty))).schema
    assert read.equals(TABLES[name])
    for field in TABLES[name]:
        kept = {k: v for k, v in (read.field(field.name).metadata or {}).items() if not k.startswith(b"PARQUET")}
        assert kept == (field.metadata or {})
    assert pa.ipc.open_file(pa.py_buffer(ipc_bytes(empty))).schema.equals(TABLES[name], check_metadata=True)


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"quarantine", "roi_embeddings"}))
def test_every_stage_writes_its_schema_sorted_by_image(finished, name):
    for table in finished.tables(name):
        assert table.schema == TABLES[name]
        ids = table["image_id"].to_pylist()
        assert ids == sorted(ids)


def test_shard_files_sort_like_their_numbers():
    names = [schema.shard_file(shard) for shard in (0, 9, 10, 12345)]
    assert names == sorted(names)
    assert names[0] == "shard-00000.arrow"
