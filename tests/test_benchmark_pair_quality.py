"""The benchmark of pairs: what counts as an object, what a control is, rates and intervals, on pairs made by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pair_controls import largest_pairs, matched_pairs, placement
from benchmarks.pair_objects import NO_OBJECT, Objects, Paired, classes_of, object_share, rates, tally
from benchmarks.pair_quality import read_objects


def boxes(*rows):
    return np.array(rows, np.int32).reshape(-1, 4)


def objects(*rows):
    return Objects(np.array([row[:4] for row in rows], np.float64), np.array([row[4] for row in rows], np.int64))


LEFT, RIGHT = [0, 0, 40, 40], [60, 0, 40, 40]
# Image 1: a cat left and a dog right; 2: a cat left; 3: nothing.
ANNOTATED = {1: objects([*LEFT, 17], [*RIGHT, 18]), 2: objects([*LEFT, 17])}


def test_a_box_is_the_object_that_it_overlaps_most_from_half_on():
    known = objects([0, 0, 40, 40, 17], [0, 0, 40, 30, 18])
    # Half of the first; the second exactly; a little less than half of either.
    found = classes_of(boxes([0, 0, 40, 20], [0, 0, 40, 30], [0, 0, 40, 14], [0, 0, 40, 40]), known)
    assert found.tolist() == [18, 18, NO_OBJECT, 17]
    assert classes_of(boxes([0, 0, 40, 20]), objects([*LEFT, 17])).tolist() == [17]
    assert classes_of(boxes([0, 0, 40, 19]), objects([*LEFT, 17])).tolist() == [NO_OBJECT]


def test_nothing_is_an_object_where_nothing_is_annotated():
    assert classes_of(boxes(LEFT, RIGHT), Objects(np.empty((0, 4)), np.empty(0, np.int64))).tolist() == [NO_OBJECT] * 2
    assert classes_of(boxes(), ANNOTATED[1]).tolist() == []


def test_object_share_is_over_all_rois():
    rois = {1: boxes(LEFT, RIGHT, [0, 0, 1, 1]), 2: boxes(RIGHT), 3: boxes(LEFT)}
    assert object_share(rois, ANNOTATED) == pytest.approx(2 / 5)


def test_tally_counts_shares_of_each_query_image():
    pairs = [
        Paired(1, 2, boxes(LEFT, RIGHT), boxes(LEFT, LEFT)),  # cat and cat, dog and cat
        Paired(1, 3, boxes(LEFT, RIGHT), boxes(LEFT, LEFT)),
        Paired(2, 1, boxes(LEFT), boxes(RIGHT)),
    ]
    counted = tally(pairs, ANNOTATED, [1, 2, 3])
    assert (counted.pairs, counted.object_pairs) == (5, 3)
    np.testing.assert_array_equal(counted.both, [0.5, 1, np.nan])
    np.testing.assert_array_equal(counted.same, [0.25, 0, np.nan])


def test_images_count_once_each_and_only_with_pairs_of_every_kind():
    kinds = {
        "mined": tally(
            [
                Paired(1, 2, boxes(LEFT), boxes(LEFT)),
                Paired(2, 1, boxes(LEFT, LEFT, LEFT, LEFT), boxes(LEFT, RIGHT, RIGHT, [0, 0, 1, 1])),
                Paired(3, 1, boxes(LEFT), boxes(LEFT)),
            ],
            ANNOTATED,
            [1, 2, 3],
        ),
        "other": tally(
            [Paired(1, 2, boxes(LEFT), boxes(LEFT)), Paired(2, 1, boxes([0, 0, 1, 1]), boxes(LEFT))],
            ANNOTATED,
            [1, 2, 3],
        ),
    }
    found = rates(kinds, "mined", 400, 0)
    # Image 3 has no other pair. Mined: 1 and 3/4 of the pairs are objects, 1 and 1/4 of one class.
    assert found["mined"]["object_hit"][0] == pytest.approx((1 + 0.75) / 2)
    assert found["mined"]["same_class"][0] == pytest.approx((1 + 0.25) / (1 + 0.75), abs=1e-4)
    assert found["other"]["object_hit"][0] == 0.5
    assert found["other"]["same_class"][0] == 1
    assert found["other"]["object_hit_gain"][0] == pytest.approx(0.375)
    assert "object_hit_gain" not in found["mined"]
    assert found == rates(kinds, "mined", 400, 0)


def test_intervals_cover_the_value_and_a_difference_that_all_images_share_is_certain():
    rng = np.random.default_rng(0)
    mined, other = [], []
    for image in range(200):
        hits = rng.random() < 0.7
        mined.append(Paired(image, 1000, boxes(LEFT, LEFT), boxes(LEFT, LEFT if hits else RIGHT)))
        other.append(Paired(image, 1000, boxes(LEFT, LEFT), boxes(RIGHT, LEFT if hits else RIGHT)))
    annotated = dict.fromkeys([*range(200), 1000], objects([*LEFT, 17]))
    ids = list(range(200))
    found = rates({"mined": tally(mined, annotated, ids), "other": tally(other, annotated, ids)}, "mined", 500, 0)
    value, low, high = found["mined"]["object_hit"]
    assert low < value < high
    assert high - low < 0.1
    assert found["other"]["object_hit_gain"] == [0.5, 0.5, 0.5]


def test_no_object_at_all_gives_no_share_of_classes():
    nothing = tally([Paired(3, 1, boxes(LEFT), boxes(LEFT))], ANNOTATED, [3])
    assert rates({"mined": nothing}, "mined", 100, 0)["mined"]["same_class"] is None
    with pytest.raises(ValueError, match="no image"):
        rates({"mined": tally([], ANNOTATED, [1])}, "mined", 100, 0)


def test_largest_boxes_are_paired_by_rank():
    rois = {1: boxes([0, 0, 10, 10], [0, 0, 30, 30], [5, 5, 20, 20]), 2: boxes([0, 0, 9, 9], [1, 1, 50, 50])}
    mined = [Paired(1, 2, rois[1][[0, 0, 0]], rois[2][[0, 0, 0]]), Paired(2, 1, rois[2][:1], rois[1][:1])]
    found = largest_pairs(mined, rois)
    assert [(entry.query, entry.neighbor) for entry in found] == [(1, 2), (2, 1)]
    assert found[0].query_boxes.tolist() == [[0, 0, 30, 30], [5, 5, 20, 20]]  # the neighbour has two RoIs
    assert found[0].neighbor_boxes.tolist() == [[1, 1, 50, 50], [0, 0, 9, 9]]
    assert found[1].query_boxes.tolist() == [[1, 1, 50, 50]]


def test_placement_is_in_shares_of_the_image():
    np.testing.assert_allclose(placement(boxes([10, 0, 20, 50]), (100, 50)), [[np.sqrt(0.2), 0.2, 0.5]])


@st.composite
def collections(draw):
    sizes = {
        number: (draw(st.integers(20, 60)), draw(st.integers(20, 60))) for number in range(draw(st.integers(2, 6)))
    }
    rois = {}
    for number, (width, height) in sizes.items():
        corner = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, width - 9), st.integers(1, height - 9))
        rois[number] = boxes(*draw(st.lists(corner, min_size=1, max_size=4)))
    return sizes, rois


@given(collections(), st.integers(0, 5))
def test_matched_pairs_keep_the_query_and_take_the_nearest_place_of_another_image(collection, seed):
    sizes, rois = collection
    mined = [Paired(0, 1, rois[0], rois[1][[0] * len(rois[0])])]
    found = matched_pairs(mined, rois, sizes, seed)
    assert [entry.query_boxes.tolist() for entry in found] == [[box] for box in rois[0].tolist()]
    wanted = placement(rois[1][:1], sizes[1])
    for entry in found:
        assert entry.query == 0 != entry.neighbor
        distances = [
            np.square(placement(box[None], sizes[entry.neighbor]) - wanted).sum() for box in rois[entry.neighbor]
        ]
        assert entry.neighbor_boxes.tolist() == [rois[entry.neighbor][int(np.argmin(distances))].tolist()]


def test_matched_pairs_draw_every_other_image():
    sizes = dict.fromkeys(range(4), (50, 50))
    rois = {number: boxes([0, 0, 10 + number, 10]) for number in range(4)}
    mined = [Paired(1, 2, rois[1][[0] * 64], rois[2][[0] * 64])]
    assert {entry.neighbor for entry in matched_pairs(mined, rois, sizes, 0)} == {0, 2, 3}


@pytest.fixture
def annotations(tmp_path):
    entries = [
        {"image_id": 1, "category_id": 17, "bbox": LEFT, "iscrowd": 0},
        {"image_id": 1, "category_id": 1, "bbox": RIGHT, "iscrowd": 0},
        {"image_id": 1, "category_id": 18, "bbox": RIGHT, "iscrowd": 1},
        {"image_id": 1, "category_id": 18, "bbox": [0, 0, 0, 5], "iscrowd": 0},
        {"image_id": 2, "category_id": 1, "bbox": LEFT},
        {"image_id": 9, "category_id": 17, "bbox": LEFT},
    ]
    images = [{"id": number, "width": 100, "height": 80} for number in (1, 2, 9)]
    categories = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))
    return path


def test_objects_are_read_without_persons_crowds_and_empty_boxes(annotations):
    found = read_objects(annotations, {1: (100, 80), 2: (100, 80)}, "person")
    assert found.keys() == {1}
    assert (found[1].boxes.tolist(), found[1].classes.tolist()) == ([LEFT], [17])


def test_annotations_of_another_size_or_without_the_class_are_refused(annotations):
    with pytest.raises(ValueError, match="image 1 is"):
        read_objects(annotations, {1: (50, 40)}, "person")
    with pytest.raises(ValueError, match="image 5 is"):
        read_objects(annotations, {5: (50, 40)}, "person")
    with pytest.raises(ValueError, match="no class"):
        read_objects(annotations, {1: (100, 80)}, "Person")
