"""The report stage end to end on small stores: exactly the files that the page shows, whatever was lost on the way."""

import re

import numpy as np
from small_store import SmallStore

from orl_ray import draws
from orl_ray.report.stages import PAGE, make_report, report_page
from orl_ray.scenes.reading import image_folder

JPEG = b"\xff\xd8\xff"


def page(small):
    return report_page(small.store, small.plan("report").key).read_text(encoding="utf-8")


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
    return {PAGE, *(f"neighbours-{i}.jpg" for i in shown), *pairs, *(["patches.jpg"] if pairs else [])}


def check(small):
    """Check that a report has exactly the files of the rule, and that its page names exactly these."""
    assert files(small) == expected_files(small)
    named = set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page(small)))
    assert named == files(small) - {PAGE}
    (record,) = small.records("report")
    for name in named:
        assert small.store.read_file("report", record.key, name).startswith(JPEG)


def scene_files(small, image_ids):
    folder = image_folder(small.config, small.store)
    return [folder / row["path"] for row in small.rows("listing") if row["image_id"] in image_ids]


def drawn_image(small):
    """Return the image that a gallery of one shows."""
    names = expected_files(small.with_settings(report={"gallery_images": 1}))
    (drawn,) = (int(name.split("-")[1]) for name in names if name.startswith("pairs-"))
    return drawn


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
        folder = image_folder(finished.config, finished.store)
        small = SmallStore.new(tmp_path / "store", "source.kind=folder", f"source.images={folder}", "mining.k_max=4")
        made = small.make()
        assert "evaluation" not in made
        check(small)
        assert "no labels: the source is a plain folder" in page(small)

    def test_an_evaluation_that_could_not_score_is_reported_with_its_reason(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(evaluation={"knn_k": 20})
        assert small.make() == ["evaluation", "report"]
        check(small)
        assert "lower evaluation.knn_k" in page(small)


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
        for name in ("scenes", "proposals", "rois", "image_embeddings", "neighbors", "correspondences"):
            assert [record.rows for record in small.records(name)] == [8, 8, 0]
        check(small)
        assert page(small).count("zero bytes") == 4

    def test_images_lost_while_proposing_are_left_out_of_the_pairs(self, finished, tmp_path):
        # All neighbours that the page shows of the one drawn image lose their RoIs: its pairs are with a later one.
        drawn = drawn_image(finished)
        lost = next(row["neighbor_ids"] for row in finished.rows("neighbors") if row["image_id"] == drawn)
        assert len(lost) == 6
        small = self.store_at(finished, tmp_path, "scenes", "mining.k_max=19", "report.gallery_images=1")
        paths = scene_files(small, lost)
        for path in paths:
            path.rename(path.with_suffix(".away"))
        small.make("rois")
        for path in paths:
            path.with_suffix(".away").rename(path)
        small.make()
        assert {i for i, _ in small.quarantined("proposals")} == set(lost)
        named = {row[name] for row in small.rows("correspondences") for name in ("image_id", "neighbor_id")}
        assert named == set(range(20)) - set(lost)
        (row,) = (row for row in small.rows("neighbors") if row["image_id"] == drawn)
        assert row["neighbor_ids"][:6] == lost
        assert f"pairs-{drawn}-{row['neighbor_ids'][6]}.jpg" in files(small)
        check(small)

    def test_an_image_lost_after_its_embedding_does_not_cost_the_report(self, finished, tmp_path):
        drawn = drawn_image(finished)
        shown = next(row["neighbor_ids"] for row in finished.rows("neighbors") if row["image_id"] == drawn)
        small = self.store_at(finished, tmp_path, "neighbors", "report.gallery_images=1")
        for path in scene_files(small, {drawn, shown[0]}):
            path.unlink()
        small.make()
        assert {i for i, _ in small.quarantined("roi_embeddings")} == {drawn, shown[0]}
        check(small)
        assert files(small) == {PAGE, f"neighbours-{drawn}.jpg"}
        assert page(small).count("missing file") >= 2

    def test_a_collection_smaller_than_k_max_is_reported(self, tmp_path):
        few = ["generated.images=5", "mining.k_max=20", "mining.shards=3", "report.gallery_images=8"]
        small = SmallStore.new(tmp_path / "store", *few)
        small.make()
        assert {len(row["neighbor_ids"]) for row in small.rows("neighbors")} == {4}
        check(small)
        assert "beside its 4 nearest images" in page(small)
