"""Mining on a small store: shards, neighbours and RoI pairs against brute force."""

import numpy as np
import pytest
from safetensors.numpy import load

from orl_ray import schema
from orl_ray.columns import vectors_of
from orl_ray.mining.matching import pair_count
from orl_ray.mining.shard_stages import CENTROIDS


def vectors_by_image(small):
    tables = small.tables("image_embeddings")
    ids = np.concatenate([table["image_id"].to_numpy() for table in tables])
    return ids, np.concatenate([vectors_of(table) for table in tables]).astype(np.float64)


@pytest.fixture(scope="module")
def boxes_by_image(finished):
    return {row["image_id"]: set(map(tuple, row["boxes"])) for row in finished.rows("rois")}


class TestShards:
    def test_there_is_one_centroid_a_shard(self, finished):
        (record,) = finished.records("centroids")
        tensors = load(finished.store.read_file("centroids", record.key, CENTROIDS))
        assert {name: tensor.shape[0] for name, tensor in tensors.items()} == {"centers": 2, "prices": 2}

    def test_every_image_has_a_shard_and_no_shard_is_empty(self, finished):
        rows = finished.rows("shards")
        assert [row["image_id"] for row in rows] == [row["image_id"] for row in finished.rows("scenes")]
        assert {row["shard"] for row in rows} == {0, 1}
        assert all(table.schema == schema.SHARDS for table in finished.tables("shards"))


class TestNeighbors:
    def test_are_those_of_brute_force(self, finished):
        ids, vectors = vectors_by_image(finished)
        exact = vectors @ vectors.T
        np.fill_diagonal(exact, -np.inf)
        rows = finished.rows("neighbors")
        assert [row["image_id"] for row in rows] == ids.tolist()
        for row, similarities in zip(rows, exact, strict=True):
            order = sorted(range(len(ids)), key=lambda i: (-similarities[i], ids[i]))[:6]
            assert row["neighbor_ids"] == ids[order].tolist()
            np.testing.assert_allclose(row["similarities"], similarities[order], atol=1e-12)

    def test_an_image_is_not_its_own_neighbour(self, finished):
        assert all(row["image_id"] not in row["neighbor_ids"] for row in finished.rows("neighbors"))

    def test_do_not_depend_on_the_number_of_shards(self, finished, tmp_path):
        for shards in (1, 3):
            small = finished.copy(tmp_path / f"{shards}").with_settings(mining={"shards": shards})
            made = small.make("correspondences")
            assert "neighbors" not in made  # their key leaves shards out, so they are made by hand
            (part, *_) = small.plan("neighbors").records
            (small.store.root.local / "neighbors" / f"{part.key}.json").unlink()
            assert small.make("neighbors") == ["neighbors"]
            assert small.plan("neighbors").content_hash == finished.plan("neighbors").content_hash
            assert small.plan("correspondences").content_hash == finished.plan("correspondences").content_hash

    def test_a_collection_smaller_than_k_max_gives_all_other_images(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(mining={"k_max": 50})
        small.make("neighbors")
        rows, ids = small.rows("neighbors"), {row["image_id"] for row in small.rows("scenes")}
        for row in rows:
            assert len(row["neighbor_ids"]) == len(row["similarities"]) == 19
            assert {*row["neighbor_ids"], row["image_id"]} == ids

    def test_a_smaller_k_max_gives_a_prefix(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(mining={"k_max": 4})
        small.make("neighbors")
        for fewer, more in zip(small.rows("neighbors"), finished.rows("neighbors"), strict=True):
            assert fewer["neighbor_ids"] == more["neighbor_ids"][:4]


class TestCorrespondences:
    def test_there_is_a_row_for_every_image_and_neighbour_by_rank(self, finished):
        neighbors = {row["image_id"]: row["neighbor_ids"] for row in finished.rows("neighbors")}
        wanted = [(i, n, rank) for i, ids in neighbors.items() for rank, n in enumerate(ids)]
        rows = finished.rows("correspondences")
        assert [(row["image_id"], row["neighbor_id"], row["rank"]) for row in rows] == wanted
        assert all(table.schema == schema.CORRESPONDENCES for table in finished.tables("correspondences"))

    def test_pairs_a_neighbour_are_the_largest_ratios_share_of_the_images_rois(self, finished, boxes_by_image):
        for row in finished.rows("correspondences"):
            own, others = len(boxes_by_image[row["image_id"]]), len(boxes_by_image[row["neighbor_id"]])
            assert row["rois"] == own
            wanted = min(pair_count(own, finished.config.mining.ratio_max), own * others)
            assert len(row["query_boxes"]) == len(row["neighbor_boxes"]) == len(row["similarities"]) == wanted

    def test_pair_boxes_are_rois_of_their_images_and_no_pair_comes_twice(self, finished, boxes_by_image):
        for row in finished.rows("correspondences"):
            query, neighbor = list(map(tuple, row["query_boxes"])), list(map(tuple, row["neighbor_boxes"]))
            assert set(query) <= boxes_by_image[row["image_id"]]
            assert set(neighbor) <= boxes_by_image[row["neighbor_id"]]
            assert len(set(zip(query, neighbor, strict=True))) == len(query)
            assert row["similarities"] == sorted(row["similarities"], reverse=True)

    def test_a_smaller_ratio_gives_prefixes(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(mining={"ratio_max": 0.3})
        small.make("correspondences")
        for fewer, more in zip(small.rows("correspondences"), finished.rows("correspondences"), strict=True):
            count = pair_count(more["rois"], 0.3)
            for name in ("query_boxes", "neighbor_boxes", "similarities"):
                assert fewer[name] == more[name][:count]

    def test_the_record_counts_pairs_and_who_has_some(self, finished):
        for table, record in zip(finished.tables("correspondences"), finished.records("correspondences"), strict=True):
            facts, images = record.facts, set(table["image_id"].to_pylist())
            assert facts["pairs"] == sum(map(len, table["similarities"].to_pylist()))
            assert facts["images_with_pairs"] == record.rows == len(images)
            assert facts["neighbors"] == facts["neighbors_with_pairs"] == len(table)

    def test_one_shard_moves_no_vectors_and_more_shards_move_those_of_whole_images(self, finished, tmp_path):
        moved = {1: 0}
        for shards in (1, 2, 3):
            small = finished.copy(tmp_path / f"{shards}").with_settings(mining={"shards": shards})
            small.make("correspondences")
            for record in small.records("correspondences"):
                small.store.delete_part("correspondences", record.key)
            small.make("correspondences")
            moved[shards] = sum(record.facts["bytes_moved"] for record in small.records("correspondences"))
        assert moved[1] == 0
        assert all(moved[shards] > 0 and moved[shards] % (2 * 512) == 0 for shards in (2, 3))

    @pytest.mark.parametrize("pairing", ["mutual", "one_to_one"])
    def test_another_pairing_is_mined_anew_and_pairs_each_roi_once(self, finished, tmp_path, pairing):
        small = finished.copy(tmp_path / "copy").with_settings(mining={"pairing": pairing})
        assert small.make("correspondences") == ["correspondences"]
        for row, published in zip(small.rows("correspondences"), finished.rows("correspondences"), strict=True):
            for name in ("query_boxes", "neighbor_boxes"):
                assert len(set(map(tuple, row[name]))) == len(row[name]) >= 1
            assert row["similarities"][0] == published["similarities"][0]
