"""The actors as plain objects: what a shard holds, finds and matches."""

import numpy as np
import pyarrow as pa
import pytest

from orl_ray import schema
from orl_ray.columns import boxes_of, vectors_of
from orl_ray.mining.exact_search import ExactIndex, merge_neighbors
from orl_ray.mining.image_index_actor import ImageIndexActor
from orl_ray.mining.matching import match
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
    def test_every_image_is_owned_by_the_shard_it_was_assigned_to(self, finished, roi_actors):
        rows = finished.rows("shards")
        ids = np.array([row["image_id"] for row in rows])
        for shard, actor in enumerate(roi_actors):
            assert actor.owned(ids).tolist() == [row["shard"] == shard for row in rows]

    def test_an_unknown_image_is_owned_by_nobody(self, roi_actors):
        assert not any(actor.owned(np.array([123456])).any() for actor in roi_actors)
        assert roi_actors[0].owned(np.array([], np.int64)).shape == (0,)

    def test_pairs_are_those_of_each_neighbour_matched_alone(self, roi_actors, rois_by_image):
        actor = roi_actors[0]
        held = sorted(actor.rows)
        queries = sorted(set(rois_by_image) - set(held))[:2]
        asked = [held[:3], held[1:2]]
        found = actor.match([rois_by_image[i][0] for i in queries], asked, [4, 2])
        for query, ids, count, answers in zip(queries, asked, [4, 2], found, strict=True):
            assert len(answers) == len(ids)
            for neighbor, (pairs, boxes) in zip(ids, answers, strict=True):
                vectors, own_boxes = rois_by_image[neighbor]
                wanted = match(rois_by_image[query][0], vectors, count)
                for got, want in zip(pairs, wanted, strict=True):
                    np.testing.assert_array_equal(got, want)
                np.testing.assert_array_equal(boxes, own_boxes[wanted.neighbor_index])

    def test_nothing_asked_gives_nothing(self, roi_actors):
        assert roi_actors[0].match([], [], []) == []

    def test_a_shard_without_rois_owns_nothing(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        empty = small.store.read_table("roi_embeddings", small.records("roi_embeddings")[0].key, "shard-00000.arrow")
        record = small.store.write_part(
            "roi_embeddings", "empty", 0, {"shard-00000.arrow": ipc_bytes(empty.slice(0, 0))}, rows=0
        )
        small.store.write_manifest("roi_embeddings", "all", [record])
        actor = RoiShardActor(small.store, {"roi_embeddings": "all"}, 0, 1)
        assert actor.rows == {}
        assert actor.vectors.shape == (0, 512)
