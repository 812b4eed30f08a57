"""The report stage end to end on small stores: exactly the files that the page shows, whatever was lost on the way."""

import re

import numpy as np
import pytest
from PIL import Image
from small_store import SmallStore

from benchmarks.photo_copies import burst
from orl_ray import draws
from orl_ray.report.stages import PAGE, make_report
from orl_ray.scenes.generated import render_scene
from orl_ray.scenes.sources import source_folders

JPEG = b"\xff\xd8\xff"


def page(small):
    return small.store.read_file("report", small.plan("report").key, PAGE).decode()


def files(small):
    (record,) = small.records("report")
    return set(record.files)


def expected_files(small):
    """Return the files of a report by the rule: neighbours of drawn images, pairs with the nearest that has some."""
    rows = [row for row in small.rows("neighbors") if row["neighbor_ids"]]
    ids = np.array([row["image_id"] for row in rows])
    drawn = draws.uniform(draws.stream(small.config.seed, "report", "gallery"), ids, 1)[:, 0]
    shown = ids[np.argsort(drawn)[: small.config.report.gallery_images]].tolist()
    nearest = {}
    for row in small.rows("correspondences"):
        nearest.setdefault(row["image_id"], row["neighbor_id"])
    pairs = {f"pairs-{i}-{nearest[i]}.jpg" for i in shown if i in nearest}
    groups = {f"near-duplicates-{row['group']}.jpg" for row in small.rows("near_duplicates")}
    assert len(groups) <= small.config.report.gallery_images
    return {PAGE, *(f"neighbours-{i}.jpg" for i in shown), *pairs, *groups, *(["patches.jpg"] if pairs else [])}


def check(small):
    """Check that a report has exactly the files of the rule, and that its page names exactly these."""
    assert files(small) == expected_files(small)
    named = set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page(small)))
    assert named == files(small) - {PAGE}
    (record,) = small.records("report")
    for name in named:
        assert small.store.read_file("report", record.key, name).startswith(JPEG)


def scene_files(small, image_ids):
    folder = source_folders(small.config, small.store)[0].images.local
    return [folder / row["path"] for row in small.rows("listing") if row["image_id"] in image_ids]


class TestWholeReport:
    def test_has_exactly_the_files_that_its_page_shows(self, finished):
        check(finished)
        assert len(files(finished)) == 2 + 3 + 3  # page and patches; neighbours and pairs of three images

    def test_says_what_was_done_and_found(self, finished):
        text = page(finished)
        for stage in ("listing", "scenes", "neighbors", "correspondences", "object_level", "evaluation"):
            assert stage in text
        assert "20 scenes: an object-level backbone" in text
        assert "20260101T000000-abcdef" in text
        assert "too small to conclude anything" in text
        assert "mining.pair_ratio" in text  # a setting that differs from its default
        assert "evaluation.knn_temperature" not in text.partition("Protocol")[0]  # one that does not

    def test_names_the_backbone_relative_to_the_store(self, finished):
        assert f"object_level/{finished.plan('object_level').key}/backbone.safetensors" in page(finished)
        assert str(finished.store.root) not in page(finished)

    def test_is_the_same_each_time(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        plan = small.plan("report")
        make_report(small.config, small.store, plan.manifests, "again", "20260101T000000-abcdef")
        assert small.store.record("report", "again").content_hash == plan.records[0].content_hash

    def test_k_and_ratio_change_the_report_and_no_mining(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(mining={"k": 2, "pair_ratio": 0.0})
        # The stand-in for training gives the same weights again, so the evaluation stays.
        assert small.make() == ["object_level", "report"]
        check(small)
        assert 'alt="1 paired regions' in page(small)


class TestSkippedAndUnscored:
    def test_without_labels_the_page_says_why_nothing_was_scored(self, finished, tmp_path):
        folder = source_folders(finished.config, finished.store)[0].images
        small = SmallStore.new(
            tmp_path / "store", "source.kind=folder", f"source.images={folder.uri}", "mining.k_max=4"
        )
        made = small.make()
        assert "evaluation" not in made
        check(small)
        assert "no labels: the source is a plain folder" in page(small)

    def test_an_evaluation_that_could_not_score_is_reported_with_its_reason(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(evaluation={"knn_k": 20})
        assert small.make() == ["evaluation", "report"]
        check(small)
        assert "lower evaluation.knn_k" in page(small)


class TestNearDuplicates:
    @pytest.fixture(scope="class")
    @classmethod
    def with_copies(cls, tmp_path_factory):
        """Return a store over 6 scenes, 3 of them in 4 slightly different copies."""
        folder, rng = tmp_path_factory.mktemp("copies"), np.random.default_rng(0)
        for number in range(6):
            scene = render_scene(0, "train", number, 96).image
            for copy in range(4 if number < 3 else 1):
                image = burst(scene, rng) if copy else scene
                Image.fromarray(image).save(folder / f"scene-{number}-{copy}.png")
        small = SmallStore.new(folder / "store", "source.kind=folder", f"source.images={folder}", "mining.k=2")
        small.make()
        return small

    def test_are_counted_and_shown(self, with_copies):
        text = page(with_copies)
        assert "12 of 15 images have near-duplicates, in 3 groups; the largest holds 4." in text
        assert "No image has a neighbour of its own group: that kept 18 pairs apart." in text
        check(with_copies)
        assert text.count('alt="4 near-duplicates of one group."') == 3

    def test_that_may_be_neighbours_are_said_to(self, with_copies, tmp_path):
        small = with_copies.copy(tmp_path / "copy").with_settings(mining={"skip_near_duplicates": False})
        assert "neighbors" in small.make()
        assert "The 18 pairs may be neighbours" in page(small)

    def test_none_are_said_to_be_none(self, finished):
        assert "There are no near-duplicates among 20 images." in page(finished)


class TestLosses:
    def store_at(self, finished, tmp_path, until, *overrides):
        """Return a store that went as far as a stage."""
        small = SmallStore.new(tmp_path / "store", "evaluation.knn_k=20", *overrides)  # too few images to score: quick
        small.make(until)
        return small

    def test_a_part_of_which_no_image_decodes_is_empty_all_the_way(self, finished, tmp_path):
        small = self.store_at(finished, tmp_path, "listing")
        for path in scene_files(small, range(16, 20)):
            path.write_bytes(b"")
        small.make()
        for name in (
            "packed_scenes",
            "scenes",
            "proposals",
            "rois",
            "image_embeddings",
            "neighbors",
            "correspondences",
        ):
            assert [record.rows for record in small.records(name)] == [8, 8, 0]
        check(small)
        assert page(small).count("zero bytes") == 4

    def test_a_source_that_is_gone_after_ingest_is_not_missed(self, finished, tmp_path):
        small = SmallStore.new(tmp_path / "store")
        small.make("packed_scenes")
        for path in scene_files(small, range(20)):
            path.unlink()
        small.make("correspondences")
        assert small.plan("correspondences").content_hash == finished.plan("correspondences").content_hash

    def test_a_collection_smaller_than_k_max_is_reported(self, tmp_path):
        few = ["generated.images=5", "mining.k_max=20", "mining.shards=3", "report.gallery_images=8"]
        small = SmallStore.new(tmp_path / "store", *few)
        small.make()
        assert {len(row["neighbor_ids"]) for row in small.rows("neighbors")} == {4}
        check(small)
        assert "beside its 4 nearest images" in page(small)
