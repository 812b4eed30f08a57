"""The evaluation stage: which images are fitted on and scored, with which features, and what it writes."""

import json
from dataclasses import replace

import numpy as np
from PIL import Image
from small_store import image_files

from orl_ray import draws
from orl_ray.config import Config
from orl_ray.embeddings.encoder import frozen_backbone
from orl_ray.embeddings.vectors import embed
from orl_ray.evaluation.folds import validation_fold
from orl_ray.evaluation.result import Result
from orl_ray.evaluation.stages import (
    RESULT,
    ProbeImage,
    evaluate_encoders,
    label_identity,
    no_labels,
    probe_features,
    probe_images,
)
from orl_ray.scenes.decode import crop_resize, decode
from orl_ray.scenes.entries import SourceImage
from orl_ray.scenes.near_duplicate_stage import Groups, read_groups
from orl_ray.scenes.sources import list_source
from orl_ray.storage import digest


def chosen(small, groups=None):
    known = groups or read_groups(small.store, small.plan("near_duplicates").key)
    return probe_images(small.config, small.store, small.plan("scenes").key, known)


def result_of(small):
    (record,) = small.records("evaluation")
    return json.loads(small.store.read_file("evaluation", record.key, RESULT))


def evaluated(small, key="out"):
    evaluate_encoders(small.config, small.store, small.plan("evaluation").manifests, key)
    return json.loads(small.store.read_file("evaluation", key, RESULT)), small.store.record("evaluation", key)


class TestChoice:
    def test_on_validation_a_fold_of_the_training_split_is_scored_and_the_rest_fitted_on(self, finished):
        images = chosen(finished)
        ids = np.array([image.image_id for image in images])
        assert ids.tolist() == [row["image_id"] for row in finished.rows("scenes")]
        assert {image.split for image in images} == {"train"}
        fold = validation_fold(ids, 0, finished.config.evaluation.validation_fraction)
        assert [image.scored for image in images] == fold.tolist()
        assert 0 < sum(fold) < len(fold)

    def test_on_test_the_test_split_is_scored_and_all_of_training_fitted_on(self, finished):
        images = chosen(finished.with_settings(evaluation={"split": "test"}))
        assert {(image.split, image.scored) for image in images} == {("train", False), ("test", True)}
        assert sum(image.scored for image in images) == 8
        assert len({image.image_id for image in images}) == len(images) == 28

    def test_near_duplicates_are_all_fitted_on_or_all_scored(self, finished):
        ids = np.array([row["image_id"] for row in finished.rows("scenes")])
        groups = Groups(np.sort(ids), np.sort(ids) // 4 * 4)
        images = chosen(finished, groups)
        by_group = {group: {i.scored for i in images if i.image_id // 4 * 4 == group} for group in set(groups.groups)}
        assert sorted(map(len, by_group.values())) == [1] * 5
        assert set.union(*by_group.values()) == {True, False}

    def test_at_most_max_images_are_taken_by_a_keyed_draw(self, finished):
        everything = chosen(finished)
        few = chosen(finished.with_settings(evaluation={"max_images": 12}))
        assert len(few) == 12
        assert set(few) <= set(everything)  # who is scored does not depend on how many are taken
        ids = np.array([image.image_id for image in everything])
        drawn = draws.uniform(draws.stream(0, "evaluation", "sample"), ids, 1)[:, 0]
        assert {image.image_id for image in few} == set(ids[np.argsort(drawn)[:12]].tolist())


class TestFeatures:
    def test_are_those_of_the_whole_image_warped_to_a_square(self, finished):
        images, encoder = chosen(finished)[:3], frozen_backbone(finished.config, None)
        kept, features = probe_features(finished.config, finished.store, images, {"one": encoder, "two": encoder}, [])
        assert kept == images
        views = []
        for image in images:
            pixels = decode((image_files(finished) / image.path).read_bytes(), 10**8)
            views.append(crop_resize(pixels, np.array([0, 0, pixels.shape[1], pixels.shape[0]], np.int32), 32))
        np.testing.assert_array_equal(features["one"], embed(encoder, views, 16).astype(np.float32))
        np.testing.assert_array_equal(features["one"], features["two"])

    def test_more_images_than_a_batch_keep_their_order(self, finished):
        images, encoder = chosen(finished), frozen_backbone(finished.config, None)
        _, together = probe_features(finished.config, finished.store, images, {"arm": encoder}, [])
        _, last = probe_features(finished.config, finished.store, images[-1:], {"arm": encoder}, [])
        assert together["arm"].shape == (20, 512)
        np.testing.assert_array_equal(together["arm"][-1], last["arm"][0])

    def test_an_image_that_cannot_be_read_is_left_out_of_all_arms(self, finished):
        images = chosen(finished)[:3]
        lost = SourceImage(5, "none.jpg")
        images[1] = ProbeImage(5, "test", "none.jpg", source=lost)
        quarantine, encoder = [], frozen_backbone(finished.config, None)
        kept, features = probe_features(finished.config, finished.store, images, {"arm": encoder}, quarantine)
        assert kept == [images[0], images[2]]
        assert len(features["arm"]) == 2
        assert quarantine == [(5, "none.jpg", "missing file")]


class TestResult:
    def test_scores_all_three_arms_by_both_metrics(self, finished):
        result = Result.from_json(result_of(finished))
        assert {(score.arm, score.metric) for score in result.rows} == {
            (arm, metric) for arm in ("object_level", "image_level", "untrained") for metric in ("knn_map", "svm_map")
        }
        assert result.fit_images + result.scored_images == 20
        (record,) = finished.records("evaluation")
        assert record.rows == result.scored_images

    def test_equal_weights_score_equally(self, finished):
        # The stand-in for image-level training holds the very weights that it would start from.
        values = {(score.arm, score.metric): score.value for score in Result.from_json(result_of(finished)).rows}
        for metric in ("knn_map", "svm_map"):
            assert values["image_level", metric] == values["untrained", metric]

    def test_evaluating_again_gives_the_same_bytes(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        assert evaluated(small)[1].content_hash == finished.records("evaluation")[0].content_hash

    def test_the_test_split_is_scored_where_the_config_says_so(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(evaluation={"split": "test", "min_positives": 2})
        result, record = evaluated(small)
        assert (result["fit_images"], result["scored_images"], record.rows) == (20, 8, 8)

    def test_a_collection_that_is_too_small_says_so_instead_of_failing(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(evaluation={"knn_k": 20})
        result, record = evaluated(small)
        assert list(result) == ["not_scored"]
        assert "lower evaluation.knn_k" in result["not_scored"]
        assert record.quarantined == 0

    def test_test_images_that_are_near_duplicates_of_training_images_are_not_scored(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy").with_settings(evaluation={"split": "test", "min_positives": 2})
        tests = list_source(small.config, small.store, "test")
        for test, row in zip(tests[:2], small.rows("scenes")[5:7], strict=True):
            seen = decode((image_files(small) / row["path"]).read_bytes(), 10**8)
            file = image_files(small, "test") / test.path
            file.unlink()
            Image.fromarray(seen).save(file, quality=70)
        result, record = evaluated(small)
        assert (result["near_duplicates"], result["fit_images"], result["scored_images"]) == (2, 20, 6)
        assert record.rows == 6
        assert result_of(finished)["near_duplicates"] == 0

    def test_an_image_that_was_lost_since_ingest_is_read_from_its_pack(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        (image_files(small) / small.rows("scenes")[4]["path"]).unlink()
        result, record = evaluated(small)
        assert record.quarantined == 0
        assert result == result_of(finished)

    def test_an_image_without_an_entry_in_the_annotations_is_left_out(self, finished, tmp_path):
        small = finished.copy(tmp_path / "copy")
        file, row = image_files(small).parent / "instances.json", small.rows("scenes")[4]
        content = json.loads(file.read_text())
        content["images"] = [image for image in content["images"] if image["id"] != row["image_id"]]
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] != row["image_id"]]
        file.unlink()
        file.write_text(json.dumps(content))
        result, _ = evaluated(small)
        assert result["fit_images"] + result["scored_images"] == 19


class TestSkipping:
    def test_only_a_source_without_labels_is_skipped(self):
        def of(**values):
            return replace(Config(), source=replace(Config().source, **values))

        assert no_labels(of(kind="generated")) == ""
        assert no_labels(of(kind="coco", annotations="labels.json")) == ""
        assert no_labels(of(kind="folder")).startswith("no labels")

    def test_labels_and_splits_are_known_by_their_content(self, tmp_path):
        file = tmp_path / "labels.json"
        file.write_text("{}")
        config = replace(Config(), source=replace(Config().source, annotations=str(file)))
        assert label_identity(config) == {"annotations": digest(b"{}")}
        assert label_identity(Config()) == {}
