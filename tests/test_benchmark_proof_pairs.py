"""The proof's pairs: random ones match in area, oracle ones join objects of one class, mined ones are the job's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pair_controls import read_discovery
from benchmarks.pair_objects import NO_OBJECT, Objects, Paired, classes_of
from benchmarks.proof.comparison import pair_quality, pairs_of_arms
from benchmarks.proof.discovery import Discovery, mine, write_regions
from benchmarks.proof.pairs import NEAREST, oracle_pairs, random_pairs, write_with_pairs
from orl_ray.config import flatten
from orl_ray.pipeline import FINISHED
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from tests.small_store import SmallStore, fresh_weights, image_files


def boxes(*rows):
    return np.array(rows, np.int32).reshape(-1, 4)


def collection(images, seed):
    """Draw images of different sizes with 4 to 9 regions each, and two pairs from each image to the next."""
    rng = np.random.default_rng(seed)
    sizes = {image: (int(rng.integers(60, 160)), int(rng.integers(60, 160))) for image in range(images)}
    rois = {}
    for image, (width, height) in sizes.items():
        count = int(rng.integers(4, 10))
        wide, high = rng.integers(10, width - 10, count), rng.integers(10, height - 10, count)
        left, top = rng.integers(0, width - wide), rng.integers(0, height - high)
        rois[image] = np.stack([left, top, wide, high], axis=1).astype(np.int32)
    mined = [Paired(i, (i + 1) % images, rois[i][:2], rois[(i + 1) % images][1:3]) for i in range(images)]
    return Discovery(sizes, rois, mined)


def share(box, size):
    return np.sqrt(box[2] * box[3] / (size[0] * size[1]))


@settings(deadline=None, max_examples=15)
@given(st.integers(8, 20), st.integers(0, 1000))
def test_a_random_partner_is_among_the_regions_of_other_images_nearest_in_area(images, seed):
    found = collection(images, seed)
    drawn = random_pairs(found.pairs, found.rois, found.sizes, seed)
    wanted = [
        (entry.query, query.tolist(), share(neighbor, found.sizes[entry.neighbor]))
        for entry in found.pairs
        for query, neighbor in zip(entry.query_boxes, entry.neighbor_boxes, strict=True)
    ]
    assert [(entry.query, *entry.query_boxes.tolist()) for entry in drawn] == [(i, box) for i, box, _ in wanted]
    for entry, (query, _, side) in zip(drawn, wanted, strict=True):
        assert entry.neighbor != query
        assert entry.neighbor_boxes[0].tolist() in found.rois[entry.neighbor].tolist()
        others = [share(box, found.sizes[i]) for i, rois in found.rois.items() if i != query for box in rois]
        distance = abs(share(entry.neighbor_boxes[0], found.sizes[entry.neighbor]) - side)
        assert sum(abs(other - side) < distance - 1e-12 for other in others) < NEAREST


def test_random_partners_are_matched_in_area_and_unlike_each_other():
    found = collection(300, 1)
    drawn = random_pairs(found.pairs, found.rois, found.sizes, 0)
    sides = np.array([share(entry.neighbor_boxes[0], found.sizes[entry.neighbor]) for entry in drawn])
    wanted = np.array(
        [share(box, found.sizes[entry.neighbor]) for entry in found.pairs for box in entry.neighbor_boxes]
    )
    unmatched = np.random.default_rng(0).permutation(wanted)
    assert np.median(np.abs(unmatched - wanted)) > 0.1
    assert np.median(np.abs(sides - wanted)) < 0.01
    assert len({entry.neighbor for entry in drawn}) > 200
    again, other = (random_pairs(found.pairs, found.rois, found.sizes, seed) for seed in (0, 1))
    assert [entry.neighbor for entry in again] == [entry.neighbor for entry in drawn]
    assert [entry.neighbor for entry in other] != [entry.neighbor for entry in drawn]


def test_too_few_regions_to_draw_from_are_refused():
    found = collection(2, 0)
    with pytest.raises(ValueError, match="regions of other images"):
        random_pairs(found.pairs, found.rois, found.sizes, 0)


def annotated(found, seed):
    """Annotate half of each image's regions, every fifth image without any, with three classes."""
    rng = np.random.default_rng(seed)
    return {
        image: Objects(rois[::2].astype(np.float64), rng.integers(1, 4, len(rois[::2])))
        for image, rois in found.rois.items()
        if image % 5
    }


@settings(deadline=None, max_examples=15)
@given(st.integers(6, 20), st.integers(0, 1000))
def test_oracle_pairs_join_objects_of_one_class_in_two_images(images, seed):
    found = collection(images, seed)
    objects = annotated(found, seed)
    drawn = oracle_pairs(found.pairs, found.rois, objects, seed)
    assert drawn
    for entry in drawn:
        assert entry.query != entry.neighbor
        first = classes_of(entry.query_boxes, objects[entry.query])
        second = classes_of(entry.neighbor_boxes, objects[entry.neighbor])
        assert first.tolist() == second.tolist() != [NO_OBJECT]
        assert entry.query_boxes[0].tolist() in found.rois[entry.query].tolist()
        assert entry.neighbor_boxes[0].tolist() in found.rois[entry.neighbor].tolist()


def test_an_image_has_as_many_oracle_pairs_as_mined_ones_or_none():
    found = collection(20, 3)
    drawn = oracle_pairs(found.pairs, found.rois, annotated(found, 3), 0)
    counts = {image: sum(entry.query == image for entry in drawn) for image in found.rois}
    assert counts == {image: 2 if image % 5 else 0 for image in found.rois}
    assert len({entry.neighbor for entry in drawn}) > 5


def test_a_class_that_only_one_image_shows_gives_no_pair():
    rois = {1: boxes([0, 0, 40, 40]), 2: boxes([0, 0, 40, 40])}
    objects = {i: Objects(rois[i].astype(np.float64), np.array([i])) for i in rois}
    assert oracle_pairs([Paired(1, 2, rois[1], rois[2])], rois, objects, 0) == []


def test_annotations_change_oracle_pairs_alone():
    found = collection(40, 0)
    first, second = (pairs_of_arms(found, lambda s=seed: annotated(found, s), 0) for seed in (0, 1))

    def plain(pairs):
        return [(i, j, first.tolist(), second.tolist()) for i, j, first, second in pairs]

    assert {kind for kind in first if plain(first[kind]) != plain(second[kind])} == {"oracle"}


def test_quality_counts_objects_and_classes_of_each_image():
    rois = {1: boxes([0, 0, 40, 40], [60, 0, 40, 40]), 2: boxes([0, 0, 40, 40]), 3: boxes([0, 0, 40, 40])}
    objects = {
        1: Objects(rois[1].astype(np.float64), np.array([7, 8])),
        2: Objects(rois[2].astype(np.float64), np.array([7])),
    }
    pairs = [
        Paired(1, 2, rois[1], rois[2][[0, 0]]),
        Paired(2, 1, rois[2], rois[1][:1]),
        Paired(2, 3, rois[2], rois[3]),
    ]
    found = pair_quality({"mined": pairs}, objects, [1, 2, 3])
    assert found == {"mined": {"pairs": 4, "images": 2, "objects": 0.75, "same_class": 0.5}}


def test_a_copy_has_other_pairs_and_all_else_the_same(tmp_path):
    with TrainingSetWriter(tmp_path / "source", 1000) as writer:
        for image in (5, 3):
            writer.add(
                image, bytes([image]), boxes([0, 0, image, 9]), [(8 - image, boxes([0, 0, 1, 1]), boxes([0, 0, 2, 2]))]
            )
    source = TrainingSet.open(tmp_path / "source")
    pairs = [Paired(3, 5, boxes([0, 0, 3, 3]), boxes([0, 0, 4, 4]))] * 2
    write_with_pairs(source, pairs, tmp_path / "copy")
    copy = TrainingSet.open(tmp_path / "copy")
    assert copy.max_pixels == 1000
    assert copy.image_ids.tolist() == [5, 3]
    assert [copy.image_bytes(position) for position in (0, 1)] == [b"\5", b"\3"]
    assert [copy.rois(position).tolist() for position in (0, 1)] == [[[0, 0, 5, 9]], [[0, 0, 3, 9]]]
    rows = [(row.neighbor_id, row.query_boxes.tolist(), row.neighbor_boxes.tolist()) for row in copy.rows(1)]
    assert rows == [(5, [[0, 0, 3, 3]], [[0, 0, 4, 4]])] * 2
    assert len(copy.rows(0)) == 0
    write_with_pairs(source, [], tmp_path / "copy")  # it is there
    assert len(TrainingSet.open(tmp_path / "copy").rows(1)) == 2


def test_regions_and_mined_pairs_are_those_of_the_main_job(tmp_path):
    small = SmallStore.new(tmp_path / "store", "mining.skip_near_duplicates=false")
    small.make("correspondences")
    names = ("scenes", "rois", "correspondences")
    stages = {name: {"key": small.plan(name).key, "state": str(small.plan(name).state)} for name in names}
    small.store.write_run("1", {"status": FINISHED, "config": flatten(small.config), "stages": stages})
    wanted = read_discovery(small.store)
    write_regions(small.config, image_files(small), tmp_path / "regions")
    found = mine(small.config, TrainingSet.open(tmp_path / "regions"), fresh_weights(small.config, "image_level"))
    assert found.sizes == wanted.sizes
    assert {i: rois.tolist() for i, rois in found.rois.items()} == {i: rois.tolist() for i, rois in wanted.rois.items()}
    assert len(found.pairs) == len(wanted.pairs) > 20
    for one, other in zip(found.pairs, wanted.pairs, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one.query_boxes, other.query_boxes)
        np.testing.assert_array_equal(one.neighbor_boxes, other.neighbor_boxes)
