"""Global mining as stages: the rows that brute force gives, whatever the shards, and what a changed setting stales."""

from dataclasses import replace

import numpy as np
import pytest

from orl_ray import schema
from orl_ray.columns import boxes_of, vectors_of
from orl_ray.graph import main_job
from orl_ray.housekeeping.takedown import find_traces
from orl_ray.mining.global_stage import check_others, read_rois
from orl_ray.mining.matching import pair_count
from orl_ray.pipeline import State
from orl_ray.pretraining.export import objects_of, paired_images
from orl_ray.scenes.near_duplicate_stage import read_groups

CODED = {"scope": "global", "global_lists": 8, "global_code_bytes": 16, "global_probes": 2, "global_candidates": 20}


@pytest.fixture(scope="module")
def flat(finished, tmp_path_factory):
    small = finished.copy(tmp_path_factory.mktemp("flat") / "store").with_settings(mining={"scope": "global"})
    small.make("correspondences")
    return small


@pytest.fixture(scope="module")
def coded(finished, tmp_path_factory):
    copy = finished.copy(tmp_path_factory.mktemp("coded") / "store")
    small = copy.with_settings(mining=CODED, rois={"max_iou": 0.8, "max_rois": 40, "min_share": 0.1})
    small.make("correspondences")
    return small


def all_rois(small):
    """Return {image id: (vectors, boxes)} of all RoIs."""
    found = {}
    for record in small.records("roi_embeddings"):
        table = read_rois(small.store, record.key)
        ids, vectors, boxes = table["image_id"].to_numpy(), vectors_of(table).astype(float), boxes_of(table, "box")
        found.update({int(i): (vectors[ids == i], boxes[ids == i].tolist()) for i in np.unique(ids)})
    return found


def expected_rows(small):
    """Say by brute force which rows there have to be, in their order."""
    mining, rois, rows = small.config.mining, all_rois(small), []
    groups = read_groups(small.store, small.plan("near_duplicates").key)
    group = dict(zip(rois, groups.of(np.array(list(rois))).tolist(), strict=True))
    for image_id in sorted(rois):
        vectors, boxes = rois[image_id]
        pairs = {}
        for query, vector in enumerate(vectors):
            near = sorted(
                (-float(vector @ other), i, p)
                for i, (others, _) in rois.items()
                if group[i] != group[image_id]
                for p, other in enumerate(others)
            )
            for minus, i, p in near[: mining.global_neighbors]:
                pairs.setdefault(i, []).append((minus, query, p))
        ranked = sorted((min(found)[0], i) for i, found in pairs.items())[: mining.k_max]
        for rank, (_, i) in enumerate(ranked):
            best = sorted(pairs[i])[: pair_count(len(boxes), mining.ratio_max)]
            row = {
                "image_id": image_id,
                "neighbor_id": i,
                "rank": rank,
                "rois": len(boxes),
                "query_boxes": [boxes[query] for _, query, _ in best],
                "neighbor_boxes": [rois[i][1][p] for *_, p in best],
                "similarities": [-minus for minus, *_ in best],
            }
            rows.append(row)
    return rows


class TestCorrespondences:
    def test_of_few_rois_equal_brute_force(self, flat):
        assert flat.rows("correspondences") == expected_rows(flat)
        assert all(table.schema == schema.CORRESPONDENCES for table in flat.tables("correspondences"))

    def test_of_all_lists_and_candidates_equal_brute_force(self, coded, tmp_path):
        everything = {"global_probes": 8, "global_candidates": 10_000}
        small = coded.copy(tmp_path / "copy").with_settings(mining=everything)
        assert small.make("correspondences") == ["correspondences"]
        assert small.rows("correspondences") == expected_rows(small)

    @pytest.mark.parametrize("shards", [1, 3])
    def test_do_not_depend_on_the_shards(self, coded, tmp_path, shards):
        small = coded.copy(tmp_path / "copy").with_settings(mining={"shards": shards})
        small.make("correspondences")
        assert small.plan("roi_codebook").content_hash == coded.plan("roi_codebook").content_hash
        assert small.plan("correspondences").content_hash == coded.plan("correspondences").content_hash

    def test_fewer_images_and_pairs_are_a_selection_of_what_is_stored(self, coded, tmp_path):
        small = coded.copy(tmp_path / "copy").with_settings(mining={"k_max": 3, "ratio_max": 0.05, "pair_ratio": 0.05})
        small.make("correspondences")
        wanted = [row for row in coded.rows("correspondences") if row["rank"] < 3]
        for row in wanted:
            for name in ("query_boxes", "neighbor_boxes", "similarities"):
                row[name] = row[name][: pair_count(row["rois"], 0.05)]
        assert small.rows("correspondences") == wanted

    def test_training_takes_the_best_images_and_pairs(self, coded):
        rois, found = coded.records("rois"), coded.records("correspondences")
        paired = paired_images(coded.store, found)
        objects = objects_of(coded.store, rois[0], found[0], coded.config.mining, paired)
        rows = [row for row in coded.tables("correspondences")[0].to_pylist() if row["rank"] < coded.config.mining.k]
        told = [(image_id, neighbor) for image_id, (_, near) in objects.items() for neighbor, *_ in near]
        assert told == [(row["image_id"], row["neighbor_id"]) for row in rows]
        assert all(near for _, near in objects.values())

    def test_the_record_tells_the_recall_of_an_approximate_search(self, flat, coded):
        facts = [record.facts for record in coded.records("correspondences")]
        wanted, reached = (sum(fact[name] for fact in facts) for name in ("recall_wanted", "recall_found"))
        assert wanted > 1000
        assert 0.3 < reached / wanted < 1
        assert not any("recall_wanted" in record.facts for record in flat.records("correspondences"))


class TestPlan:
    def test_a_searchs_reach_makes_only_the_pairs_anew(self, coded):
        small = coded.with_settings(mining={"global_probes": 3})
        assert small.plan("roi_codebook").state is State.DONE
        assert small.plan("correspondences").state is State.RUN

    def test_mining_among_neighbours_keeps_its_own_pairs(self, finished, flat):
        among = flat.with_settings(mining={"scope": "neighbors", "global_probes": 3})
        assert among.plan("correspondences").content_hash == finished.plan("correspondences").content_hash

    def test_a_collection_of_one_group_has_none_to_pair_with(self, flat):
        record = flat.records("near_duplicates")[0]
        alike = replace(record, facts={**record.facts, "largest": 20})
        flat.store.write_manifest("near_duplicates", "alike", [alike])
        manifests = {"roi_embeddings": flat.plan("roi_embeddings").key}
        check_others(flat.store, manifests)
        with pytest.raises(ValueError, match="20 of the 20 images are near-duplicates of each other"):
            check_others(flat.store, {**manifests, "near_duplicates": "alike"})

    def test_a_takedown_tells_of_the_codebook(self, coded):
        image_id = coded.rows("scenes")[0]["image_id"]
        traces = find_traces(coded.store, [stage.name for stage in main_job("global")], [image_id])
        assert traces.trained["roi_codebook"] == [coded.plan("roi_codebook").key]
        assert "roi_codebook" not in traces.parts


def test_the_report_shows_pairs_of_global_mining(flat, tmp_path):
    small = flat.copy(tmp_path / "copy")
    assert small.make() == ["object_level", "report"]  # fresh weights are the same for any pairs
    record = small.records("report")[0]
    assert any(name.startswith("pairs-") for name in record.files)
