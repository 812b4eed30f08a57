"""The benchmark of selective search: what it counts as found, as agreed and as different, on boxes made by hand."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from benchmarks import selective_search
from benchmarks.proposal_recall import NEVER, agreement, first_hits, iou_matrix, paired_difference, recall, rounded
from benchmarks.search_cost import measured, mosaic


def boxes(*rows):
    return np.array(rows, np.int32).reshape(-1, 4)


def test_iou_of_every_pair():
    first = boxes([0, 0, 10, 10], [5, 0, 10, 10])
    second = boxes([0, 0, 10, 10], [0, 0, 10, 5], [10, 0, 5, 5])
    # The last shares 5 x 5 with the box that reaches from 5 to 15, and only an edge with the other.
    np.testing.assert_allclose(iou_matrix(first, second), [[1, 0.5, 0], [50 / 150, 25 / 125, 25 / 100]])


def test_an_object_is_found_by_the_first_box_that_reaches_half():
    proposals = boxes([0, 0, 10, 4], [0, 0, 10, 5], [0, 0, 10, 10], [50, 50, 4, 4])
    objects = np.array([[0, 0, 10, 10], [50, 50, 4, 4.5], [90, 90, 5, 5]], np.float64)
    assert first_hits(proposals, objects).tolist() == [1, 3, NEVER]
    assert first_hits(proposals, objects, 0.9).tolist() == [2, NEVER, NEVER]


@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, [NEVER, NEVER])])
def test_no_box_or_no_object_is_no_hit(count, expected):
    assert first_hits(boxes(), np.ones((count, 4))).tolist() == expected
    assert first_hits(boxes([0, 0, 1, 1]), np.ones((0, 4))).tolist() == []


def test_agreement_counts_their_boxes_exactly_and_nearly():
    ours = boxes([0, 0, 100, 100], [5, 5, 20, 20])
    theirs = boxes([0, 0, 100, 100], [0, 0, 100, 91], [0, 0, 100, 80], [60, 60, 10, 10])
    assert agreement(ours, theirs) == (1, 2)
    assert agreement(theirs, ours) == (1, 1)


def test_agreement_of_many_boxes_is_that_of_their_chunks():
    rng = np.random.default_rng(0)
    many = np.unique(rng.integers(1, 60, (3000, 4)), axis=0).astype(np.int32)
    assert agreement(many, many) == (len(many), len(many))
    assert agreement(many[::2], many)[0] == len(many[::2])


def test_recall_is_over_all_objects():
    assert recall([np.array([True]), np.array([False, False, True])]) == 0.5
    assert np.isnan(recall([np.array([], bool)]))
    assert rounded({"some": 1 / 3, "none": float("nan")}) == {"some": 0.3333, "none": None}


def test_difference_of_one_side_with_itself_is_nothing():
    found = [np.array([True, False])] * 10
    assert paired_difference(found, found, 200, 0) == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_interval_covers_the_difference_and_excludes_zero_where_all_photographs_agree():
    rng = np.random.default_rng(0)
    theirs = [rng.random(8) < 0.5 for _ in range(60)]
    ours = [image | (rng.random(8) < 0.5) for image in theirs]
    figures = paired_difference(ours, theirs, 500, 0)
    assert figures["difference"] == pytest.approx(recall(ours) - recall(theirs))
    assert 0 < figures["low"] < figures["difference"] < figures["high"] < 1
    assert paired_difference(ours, theirs, 500, 0) == figures
    mirrored = paired_difference(theirs, ours, 500, 0)
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((-figures["high"], -figures["low"]))


@pytest.fixture
def collection(tmp_path):
    """Four annotated photographs, of which one is lost and one has nothing but a crowd."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        image = np.full((120, 160, 3), 90, np.uint8)
        image[10:110, 20:130] = 200
        image[30:50, 40:60] = rng.integers(0, 256, 3)
        Image.fromarray(image).save(folder / f"{number}.png")
    annotations = [{"image_id": number, "bbox": [20, 10, 110, 100], "iscrowd": 0} for number in (0, 1, 3)]
    annotations += [{"image_id": 0, "bbox": [40, 30, 20, 20]}]
    annotations += [{"image_id": number, "bbox": [0, 0, 160, 120], "iscrowd": 1} for number in (1, 2)]
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(4)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path


def test_scenes_are_drawn_without_crowds_and_lost_files(collection):
    scenes = selective_search.drawn_scenes(collection / "coco.json", collection / "images", 10, seed=0)
    assert {scene.image_id: len(scene.objects) for scene in scenes} == {0: 2, 1: 1}
    orders = [selective_search.drawn_scenes(collection / "coco.json", collection / "images", 1, s) for s in range(20)]
    assert {order[0].image_id for order in orders} == {0, 1}


def test_benchmark_ends_with_its_figures(collection, capsys, monkeypatch):
    files = ["--annotations", str(collection / "coco.json"), "--images", str(collection / "images")]
    monkeypatch.setattr("sys.argv", ["selective_search", *files, "--no-costs", "--samples", "100"])
    assert selective_search.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["photographs"], figures["objects"]) == (2, 3)
    assert figures["agreement_exact"] == figures["agreement_iou90"] == 1.0
    assert figures["speedup_median"] > 0
    for side in ("ours", "opencv"):
        assert figures[f"seconds_{side}"] > 0
        assert figures[f"recall_{side}"] == dict.fromkeys(("all", "100", "500", "1000", "2000"), 1.0)
        # Of the large objects, a RoI finds each; the small square is too small for one.
        assert figures[f"recall_rois_{side}"] == {"all": 0.6667, "large": 1.0}
    assert figures["differences"]["recall.all"] == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_cost_of_a_search_is_measured_in_a_process_of_its_own(collection):
    figures = measured(collection / "images" / "0.png", "opencv", "fast", dict(os.environ))
    assert figures["first_seconds"] > 0
    assert figures["idle_mb"] > 20
    assert figures["peak_mb_above_idle"] >= 0


def test_a_mosaic_lays_photographs_out_in_rows_and_cuts_what_does_not_fit():
    ones, twos = np.full((2, 3, 3), 1, np.uint8), np.full((1, 2, 3), 2, np.uint8)
    assert mosaic([ones, twos], 6, 3)[:, :, 0].tolist() == [[1, 1, 1, 2, 2, 1], [1, 1, 1, 0, 0, 1], [2, 2, 1, 1, 1, 2]]
