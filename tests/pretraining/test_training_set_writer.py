"""Writing a training set: round trips, refusals, and all or nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import InStore, TrainingSetWriter

BOX = st.tuples(*[st.integers(0, 500)] * 2, *[st.integers(1, 500)] * 2)
BOXES = st.lists(BOX, min_size=1, max_size=4)


@st.composite
def collections(draw):
    ids = draw(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=6, unique=True))
    images = []
    for image_id in ids:
        rows = []
        for neighbor_id in draw(st.lists(st.sampled_from(ids), unique=True)):
            pairs = draw(st.lists(st.tuples(BOX, BOX), max_size=3))
            boxes = np.array(pairs, np.int32).reshape(-1, 2, 4)
            rows.append((neighbor_id, boxes[:, 0], boxes[:, 1]))
        images.append((image_id, draw(st.binary(min_size=1, max_size=20)), draw(BOXES), rows))
    return images


@settings(max_examples=25, deadline=None)
@given(collections())
def test_what_is_written_comes_back_without_neighbours_that_have_no_pair(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("writer") / "set"
    with TrainingSetWriter(folder, max_pixels=5) as writer:
        for image in images:
            writer.add(*image)
    opened = TrainingSet.open(folder)
    assert len(opened) == len(images)
    for position, (image_id, data, rois, neighbours) in enumerate(images):
        assert opened.position(image_id) == position
        assert opened.image_bytes(position) == data
        assert opened.rois(position).tolist() == [list(box) for box in rois]
        wanted = [row for row in neighbours if len(row[1])]
        found = list(opened.rows(position))
        assert [row.neighbor_id for row in found] == [row[0] for row in wanted]
        for row, (_, query, neighbor) in zip(found, wanted, strict=True):
            assert np.array_equal(row.query_boxes, query)
            assert np.array_equal(row.neighbor_boxes, neighbor)


def test_image_level_set_has_no_rois_and_no_rows(tmp_path):
    with TrainingSetWriter(tmp_path / "set", 1) as writer:
        writer.add(5, b"x")
        writer.add(3, b"yz")
    opened = TrainingSet.open(tmp_path / "set")
    assert opened.rois(1).shape == (0, 4)
    assert opened.row_counts(np.array([0, 1])).tolist() == [0, 0]
    assert (opened.image_bytes(0), opened.image_bytes(1)) == (b"x", b"yz")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image"),
        ([(1, b"")], "image 1 has no bytes"),
        ([(1, b"x"), (1, b"y")], "1 was added twice"),
        ([(1, b"x", [])], "must be"),
        ([(1, b"x", np.zeros((0, 4)))], "no RoI"),
        ([(1, b"x", [[0, 0, 0, 3]])], "without area"),
        ([(1, b"x", [[-1, 0, 2, 3]])], "negative corner"),
        ([(1, b"x", None, [(1, [[0, 0, 1, 1]], [[0, 0, 1, 1]])])], "no RoI"),
        ([(1, b"x", [[0, 0, 1, 1]], [(1, [[0, 0, 1, 1]], [])])], "must be"),
        ([(1, b"x", [[0, 0, 1, 1]], [(1, [[0, 0, 1, 1]], [[0, 0, 1, 1]] * 2)])], "differ in number: 1 and 2"),
        ([(1, b"x", [[0, 0, 1, 1]], [(8, [[0, 0, 1, 1]], [[0, 0, 1, 1]])])], "image 8 is a neighbour"),
    ],
)
def test_bad_content_is_an_error_and_leaves_nothing_behind(tmp_path, images, message):
    def write():
        with TrainingSetWriter(tmp_path / "set", 1) as writer:
            for image in images:
                writer.add(*image)

    with pytest.raises(ValueError, match=message):
        write()
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        TrainingSetWriter(tmp_path, 1)


def test_nothing_is_visible_before_the_end(tmp_path):
    with TrainingSetWriter(tmp_path / "set", 1) as writer:
        writer.add(1, b"x")
        assert not (tmp_path / "set").exists()
    assert (tmp_path / "set" / "meta.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_readers_keep_decoded_images_where_there_is_room_for_any(tmp_path):
    for name, limit in (("none", 0), ("some", 99)):
        with TrainingSetWriter(tmp_path / name, 1, decoded_bytes=limit) as writer:
            writer.add(1, b"x")
    assert TrainingSet.open(tmp_path / "none").decoded is None
    kept = TrainingSet.open(tmp_path / "some").decoded
    assert kept.limit == 99
    kept.keep("image", np.zeros((1, 2, 3), np.uint8))
    assert kept.get("image").shape == (1, 2, 3)


def test_images_that_stay_in_the_store_are_placed_and_not_copied(tmp_path):
    packs = {"store": str(tmp_path / "store"), "cache_bytes": 10**6, "packs": [["key", "images-0.bin", 50]]}
    with TrainingSetWriter(tmp_path / "set", 1, packs) as writer:
        writer.add(7, InStore(0, 10, 20, "0" * 32))
    assert not (tmp_path / "set" / "images.bin").exists()
    assert TrainingSet.open(tmp_path / "set").counts()["bytes"] == 20
