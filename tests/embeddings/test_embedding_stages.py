"""Embedding a part: every image and every RoI once, laid out by shard, whatever becomes of the source."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_store import fresh_weights, image_files, lose_source, part_without_images

from orl_ray import schema
from orl_ray.columns import boxes_of, vectors_of
from orl_ray.embeddings.encoder import frozen_image_encoder
from orl_ray.embeddings.stages import embed_images, embed_rois, prepare_image_encoder, prepare_roi_encoder
from orl_ray.embeddings.vectors import colours, embed
from orl_ray.part_runner import WorkerContext
from orl_ray.pipeline import PartPlan
from orl_ray.scenes.decode import center_crop, crop_resize, decode, resize_shorter
from orl_ray.storage import TABLE, parquet_bytes


@pytest.fixture
def copied(finished, tmp_path):
    return finished.copy(tmp_path / "copy")


def context(small, name):
    return WorkerContext(small.config, small.store, small.plan(name).manifests)


def first_part(small, *names):
    return PartPlan(0, "out", {name: small.records(name)[0].key for name in names})


def run_images(small, scenes=None):
    where = context(small, "image_embeddings")
    part = PartPlan(0, "out", {"scenes": scenes or small.records("scenes")[0].key})
    return embed_images(where, prepare_image_encoder(where), part)


def run_rois(small, **replaced):
    manifests = {"image_level": small.plan("image_level").key}
    where = WorkerContext(small.config, small.store, manifests)
    names = [name for name in ("scenes", "rois", "shards") if name not in replaced]
    inputs = {**first_part(small, *names).inputs, **replaced}
    return embed_rois(where, prepare_roi_encoder(where), PartPlan(0, "out", inputs))


def read(store, artifact, output, name=TABLE):
    store.write_part(artifact, "out", 0, output.files, rows=output.rows)
    return store.read_table(artifact, "out", name)


def pixels(small, image_id):
    row = next(row for row in small.rows("scenes") if row["image_id"] == image_id)
    return decode((image_files(small) / row["path"]).read_bytes(), 10**8)


def shard_tables(small, key):
    names = [schema.shard_file(shard) for shard in range(small.config.mining.shards)]
    return [small.store.read_table("roi_embeddings", key, name) for name in names]


class TestImages:
    def test_every_image_of_the_part_has_the_vector_of_its_centre_crop(self, finished):
        table, settings = finished.tables("image_embeddings")[1], finished.config.embeddings
        assert table.schema == schema.image_embeddings(8)
        ids = table["image_id"].to_pylist()
        assert ids == finished.tables("scenes")[1]["image_id"].to_pylist()
        crops = [center_crop(resize_shorter(pixels(finished, i), settings.image_resize), 32) for i in ids]
        encoder = prepare_image_encoder(context(finished, "image_embeddings"))
        np.testing.assert_array_equal(vectors_of(table), embed(encoder, crops, settings.batch_size))

    def test_the_embedding_of_a_part_is_the_same_each_time(self, finished):
        output, record = run_images(finished), finished.records("image_embeddings")[0]
        assert bytes(output.files[TABLE]) == finished.store.read_file("image_embeddings", record.key, TABLE)

    def test_what_becomes_of_the_source_after_ingest_changes_nothing(self, copied, finished):
        lose_source(copied)
        record = finished.records("image_embeddings")[0]
        assert bytes(run_images(copied).files[TABLE]) == finished.store.read_file("image_embeddings", record.key, TABLE)

    def test_a_part_without_images_has_no_vectors(self, copied):
        output = run_images(copied, part_without_images(copied))
        table = read(copied.store, "image_embeddings", output)
        assert (output.rows, len(table)) == (0, 0)
        assert vectors_of(table).shape == (0, 8)

    def test_the_record_says_what_was_embedded_and_how(self, finished):
        for record in finished.records("image_embeddings"):
            batch = finished.config.embeddings.batch_size
            assert record.facts == {"feature": "projector", "forwards": record.rows, "padding": -record.rows % batch}
            assert record.environment["precision"] == "float32"

    def test_weights_without_a_projector_give_backbone_vectors_and_the_record_says_so(self, finished):
        where = context(finished, "image_embeddings")
        weights = fresh_weights(finished.config, "image_level")
        alone = {name: tensor for name, tensor in weights.items() if ".projector." not in name}
        part = PartPlan(0, "out", {"scenes": finished.records("scenes")[0].key})
        output = embed_images(where, frozen_image_encoder(finished.config, alone), part)
        table = pq.read_table(pa.py_buffer(output.files[TABLE]))
        assert output.facts["feature"] == "backbone"
        assert vectors_of(table).shape == (output.rows, 512)


class TestRois:
    def test_every_roi_is_embedded_once_in_the_shard_of_its_image(self, finished):
        shard_of = {row["image_id"]: row["shard"] for row in finished.rows("shards")}
        found = []
        for record in finished.records("roi_embeddings"):
            for shard, table in enumerate(shard_tables(finished, record.key)):
                assert table.schema == schema.roi_embeddings(512)
                ids = table["image_id"].to_pylist()
                assert {shard_of[i] for i in ids} <= {shard}
                found += zip(ids, map(tuple, boxes_of(table, "box").tolist()), strict=True)
        wanted = [(row["image_id"], tuple(box)) for row in finished.rows("rois") for box in row["boxes"]]
        assert sorted(found) == sorted(wanted)
        assert {shard_of[i] for i, _ in found} == {0, 1}

    def test_every_roi_goes_through_the_network_once(self, finished):
        backbone, batches = prepare_roi_encoder(context(finished, "roi_embeddings")), []
        backbone.backbone.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].clone()))
        boxes = {row["image_id"]: np.array(row["boxes"], np.int32) for row in finished.rows("rois")}
        for number, plan in enumerate(finished.plan("roi_embeddings").wanted):
            batches.clear()
            output = embed_rois(context(finished, "roi_embeddings"), backbone, plan)
            ids = finished.tables("scenes")[number]["image_id"].to_pylist()
            crops = [crop_resize(pixels(finished, i), box, 32) for i in ids for box in boxes[i]]
            rows = torch.cat(batches)
            assert output.facts == {"rois": len(crops), "forwards": len(crops), "padding": len(rows) - len(crops)}
            assert torch.equal(rows[: len(crops)], colours(torch.from_numpy(np.stack(crops))))
            assert len(rows) == -(-len(crops) // 16) * 16

    def test_aligned_rois_cost_a_forward_an_image(self, finished):
        small = finished.with_settings(embeddings={"roi_mode": "align"})
        output = run_rois(small)
        record = finished.records("roi_embeddings")[0]
        assert output.facts == {"rois": record.facts["rois"], "forwards": output.rows, "padding": 0}
        for name, data in output.files.items():
            table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
            cropped = finished.store.read_table("roi_embeddings", record.key, name)
            assert table.drop(["vector"]).equals(cropped.drop(["vector"]))
            if len(table):
                assert (vectors_of(table) != vectors_of(cropped)).any()

    def test_the_way_that_rois_are_embedded_is_in_the_key(self, finished):
        key = finished.plan("roi_embeddings").key
        assert finished.with_settings(embeddings={"roi_mode": "align"}).plan("roi_embeddings").key != key

    def test_the_rois_of_an_image_stand_together_in_their_order(self, finished):
        boxes = {row["image_id"]: row["boxes"] for row in finished.rows("rois")}
        for record in finished.records("roi_embeddings"):
            for table in shard_tables(finished, record.key):
                ids = list(dict.fromkeys(table["image_id"].to_pylist()))
                assert ids == sorted(ids)
                assert boxes_of(table, "box").tolist() == [box for i in ids for box in boxes[i]]

    def test_a_vector_is_that_of_its_own_crop(self, finished):
        record, encoder = (
            finished.records("roi_embeddings")[0],
            prepare_roi_encoder(context(finished, "roi_embeddings")),
        )
        for table in shard_tables(finished, record.key):
            row = len(table) // 2
            image = pixels(finished, table["image_id"][row].as_py())
            crop = crop_resize(image, boxes_of(table, "box")[row], 32)
            np.testing.assert_array_equal(vectors_of(table)[row], embed(encoder, [crop], 16)[0])

    def test_the_number_of_shards_changes_the_layout_and_no_vector(self, copied):
        ids, found = copied.tables("shards")[0]["image_id"].combine_chunks(), []
        for shards in (1, 3):
            assigned = pa.array(np.arange(len(ids)) % shards, pa.int32())
            files = {TABLE: parquet_bytes(pa.table([ids, assigned], schema=schema.SHARDS))}
            copied.store.write_part("shards", f"over-{shards}", 0, files, rows=len(ids))
            output = run_rois(copied.with_settings(mining={"shards": shards}), shards=f"over-{shards}")
            tables = [pa.ipc.open_file(pa.py_buffer(data)).read_all() for data in output.files.values()]
            assert len(tables) == shards
            rows = [row for table in tables for row in table.to_pylist()]
            found.append({(row["image_id"], *row["box"]): row["vector"] for row in rows})
        assert found[0] == found[1]

    def test_what_becomes_of_the_source_after_ingest_changes_nothing(self, copied, finished):
        lose_source(copied)
        record = finished.records("roi_embeddings")[0]
        for name, data in run_rois(copied).files.items():
            assert bytes(data) == finished.store.read_file("roi_embeddings", record.key, name)

    def test_an_image_that_lacks_its_rois_or_its_shard_is_left_out(self, copied):
        # Imported RoIs may be of fewer images than there are.
        for artifact in ("rois", "shards"):
            table = copied.tables(artifact)[0]
            copied.store.write_part(artifact, f"{artifact}-less", 0, {TABLE: parquet_bytes(table.slice(1))}, rows=7)
            output = run_rois(copied, **{artifact: f"{artifact}-less"})
            assert output.rows == 7

    def test_a_part_without_images_has_empty_files_for_every_shard(self, copied):
        keys = {"scenes": part_without_images(copied)}
        for artifact in ("rois", "shards"):
            empty = parquet_bytes(copied.tables(artifact)[0].slice(0, 0))
            keys[artifact] = copied.store.write_part(artifact, f"{artifact}-none", 0, {TABLE: empty}, rows=0).key
        output = run_rois(copied, **keys)
        assert (output.rows, output.facts) == (0, {"rois": 0, "forwards": 0, "padding": 0})
        copied.store.write_part("roi_embeddings", "out", 0, output.files, rows=0)
        for table in shard_tables(copied, "out"):
            assert (len(table), table.schema) == (0, schema.roi_embeddings(512))
            assert vectors_of(table).shape == (0, 512)
