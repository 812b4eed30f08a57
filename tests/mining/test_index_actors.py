"""The actors as plain objects: what a shard holds, finds and matches."""

import numpy as np
import pyarrow as pa
import pytest

from orl_ray import schema
from orl_ray.columns import boxes_of, vector_column, vectors_of
from orl_ray.mining.exact_search import ExactIndex, merge_neighbors
from orl_ray.mining.image_index_actor import ImageIndexActor
from orl_ray.mining.matching import match, pair_count
from orl_ray.mining.roi_shard_actor import RoiShardActor, roi_rows
from orl_ray.mining.shard_vectors import shard_vectors
from orl_ray.storage import ipc_bytes


@pytest.fixture(scope="module")
def roi_actors(finished):
    manifests = finished.plan("correspondences").manifests
    return [RoiShardActor(finished.store, manifests, shard, 1) for shard in range(2)]


@pytest.fixture(scope="module")
def rois_by_image(finished):
    """Return each image's (vectors, boxes)."""
    names = [schema.shard_file(shard) for shard in range(2)]
    tables = [
        finished.store.read_table("roi_embeddings", record.key, name)
        for record in finished.records("roi_embeddings")
        for name in names
    ]
    whole = pa.concat_tables(tables)
    ids, vectors, boxes = whole["image_id"].to_numpy(), vectors_of(whole), boxes_of(whole, "box")
    return {int(i): (vectors[ids == i], boxes[ids == i]) for i in np.unique(ids)}


class TestRoiRows:
    def test_gives_the_rows_of_each_image(self):
        assert roi_rows(np.array([5, 5, 2, 9, 9, 9])) == {5: (0, 2), 2: (2, 3), 9: (3, 6)}

    @pytest.mark.parametrize("ids", [[], [7], [0, 0], [-1, -1, 3], [-(2**63), 2**63 - 1]])
    def test_spans_cover_all_rows_without_a_gap(self, ids):
        spans = roi_rows(np.array(ids, np.int64))
        assert [row for start, stop in spans.values() for row in range(start, stop)] == list(range(len(ids)))
        assert list(spans) == list(dict.fromkeys(ids))


class TestImageIndex:
    def test_shards_together_find_what_one_index_finds(self, finished):
        manifests = finished.plan("neighbors").manifests
        actors = [ImageIndexActor(finished.store, manifests, shard, 1) for shard in range(2)]
        tables = finished.tables("image_embeddings")
        ids = np.concatenate([table["image_id"].to_numpy() for table in tables])
        vectors = np.concatenate([vectors_of(table) for table in tables])
        merged = merge_neighbors([actor.search(vectors, ids, 6) for actor in actors], 6)
        whole = ExactIndex(shard_vectors(ids, [vectors], vectors.shape[1])).search(vectors, ids, 6)
        np.testing.assert_array_equal(merged.ids, whole.ids)
        np.testing.assert_array_equal(merged.similarities, whole.similarities)

    def test_a_shard_without_images_finds_nothing(self, finished):
        actor = ImageIndexActor(finished.store, finished.plan("neighbors").manifests, 7, 1)
        table = finished.tables("image_embeddings")[0]
        found = actor.search(vectors_of(table), table["image_id"].to_numpy(), 3)
        assert (found.ids == -1).all()


class TestRoiShard:
    def test_every_image_has_its_rois_in_the_shard_it_was_assigned_to(self, finished, roi_actors, rois_by_image):
        rows = finished.rows("shards")
        ids = np.array([row["image_id"] for row in rows])
        for shard, actor in enumerate(roi_actors):
            wanted = [len(rois_by_image[row["image_id"]][0]) * (row["shard"] == shard) for row in rows]
            assert actor.roi_counts(ids).tolist() == wanted

    def test_an_unknown_image_has_no_rois(self, roi_actors):
        assert [actor.roi_counts(np.array([123456])).tolist() for actor in roi_actors] == [[0], [0]]
        assert roi_actors[0].roi_counts(np.array([], np.int64)).shape == (0,)

    def test_what_is_sent_are_the_rois_of_the_images_asked_for(self, roi_actors, rois_by_image):
        ids = np.array(sorted(roi_actors[1].rows))[[3, 0]]
        block = roi_actors[1].send(ids)
        assert block.image_ids.tolist() == [i for i in ids for _ in rois_by_image[i][0]]
        np.testing.assert_array_equal(block.vectors, np.concatenate([rois_by_image[i][0] for i in ids]))
        np.testing.assert_array_equal(block.boxes, np.concatenate([rois_by_image[i][1] for i in ids]))

    @pytest.mark.parametrize("pairing", ["top", "mutual", "one_to_one"])
    @pytest.mark.parametrize("visitors", ["none", "images", "neighbours"])
    def test_pairs_are_those_of_each_edge_matched_alone(self, roi_actors, rois_by_image, pairing, visitors):
        home, other = (sorted(actor.rows) for actor in roi_actors)
        images, neighbors = (other[:2], home[:3]) if visitors == "images" else (home[:2], home[2:5])
        neighbors = other[:3] if visitors == "neighbours" else neighbors
        edges = [(i, j) for i in images for j in neighbors]
        guests = {"none": [], "images": images, "neighbours": neighbors}[visitors]
        received = roi_actors[1].send(np.array(guests)) if guests else None
        found = roi_actors[0].match(np.array(edges), 0.5, pairing, received)
        assert found.received_bytes == sum(rois_by_image[i][0].nbytes for i in guests)
        stops = np.cumsum(found.counts)
        assert stops[-1] == len(found.similarities)
        for (i, j), start, stop in zip(edges, stops - found.counts, stops, strict=True):
            (query, query_boxes), (neighbor, neighbor_boxes) = rois_by_image[i], rois_by_image[j]
            wanted = match(query, neighbor, pair_count(len(query), 0.5), pairing)
            np.testing.assert_array_equal(found.similarities[start:stop], wanted.similarities)
            np.testing.assert_array_equal(found.query_boxes[start:stop], query_boxes[wanted.query_index])
            np.testing.assert_array_equal(found.neighbor_boxes[start:stop], neighbor_boxes[wanted.neighbor_index])

    def test_nothing_asked_gives_nothing(self, roi_actors):
        found = roi_actors[0].match(np.empty((0, 2), np.int64), 0.5, "top")
        assert [len(column) for column in found[:4]] == [0, 0, 0, 0]

    def test_vectors_that_were_not_normalised_are_refused(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        table = small.store.read_table("roi_embeddings", small.records("roi_embeddings")[0].key, "shard-00000.arrow")
        longer = table.set_column(2, table.schema.field("vector"), vector_column(vectors_of(table) * np.float16(2)))
        record = small.store.write_part(
            "roi_embeddings", "longer", 0, {"shard-00000.arrow": ipc_bytes(longer)}, rows=len(table)
        )
        small.store.write_manifest("roi_embeddings", "all", [record])
        with pytest.raises(ValueError, match="RoIs of shard 0 must be unit vectors"):
            RoiShardActor(small.store, {"roi_embeddings": "all"}, 0, 1)

    def test_a_shard_without_rois_owns_nothing(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        empty = small.store.read_table("roi_embeddings", small.records("roi_embeddings")[0].key, "shard-00000.arrow")
        record = small.store.write_part(
            "roi_embeddings", "empty", 0, {"shard-00000.arrow": ipc_bytes(empty.slice(0, 0))}, rows=0
        )
        small.store.write_manifest("roi_embeddings", "all", [record])
        actor = RoiShardActor(small.store, {"roi_embeddings": "all"}, 0, 1)
        assert actor.rows == {}
        assert actor.own.vectors.shape == (0, 512)
