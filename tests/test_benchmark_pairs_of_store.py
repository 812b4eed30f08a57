"""The benchmark of pairs on a small store: what it reads there, what it draws, and what it copies to go untrained."""

import io

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load

from benchmarks.pair_controls import largest_pairs, matched_pairs, read_discovery
from benchmarks.pair_quality import gallery
from benchmarks.stored_vectors import read_stored_vectors
from benchmarks.untrained_discovery import copy_without_training
from orl_ray.config import flatten
from orl_ray.embeddings.encoder import WEIGHTS
from orl_ray.mining.matching import pair_count
from orl_ray.pipeline import FINISHED, State
from orl_ray.storage import Store, StoreError
from tests.small_store import SmallStore, fresh_weights


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    small = SmallStore.new(tmp_path_factory.mktemp("pairs") / "store")
    small.make("correspondences")
    names = ("scenes", "rois", "image_embeddings", "roi_embeddings", "correspondences")
    stages = {name: {"key": small.plan(name).key, "state": str(small.plan(name).state)} for name in names}
    small.store.write_run("1", {"status": FINISHED, "config": flatten(small.config), "stages": stages})
    return small


def test_pairs_are_those_that_training_draws_from(small):
    found, mining = read_discovery(small.store), small.config.mining
    assert found.config == small.config
    wanted = [row for row in small.rows("correspondences") if row["rank"] < mining.k]
    assert len(found.pairs) == len(wanted) > 20
    for entry, row in zip(found.pairs, sorted(wanted, key=lambda row: (row["image_id"], row["rank"])), strict=True):
        count = pair_count(row["rois"], mining.pair_ratio)
        assert (entry.query, entry.neighbor) == (row["image_id"], row["neighbor_id"])
        assert entry.query_boxes.tolist() == row["query_boxes"][:count]
        assert entry.neighbor_boxes.tolist() == row["neighbor_boxes"][:count]
    assert {i: boxes.tolist() for i, boxes in found.rois.items()} == {
        row["image_id"]: row["boxes"] for row in small.rows("rois")
    }


def test_a_store_without_pairs_is_refused(tmp_path):
    empty = SmallStore.new(tmp_path / "store")
    with pytest.raises(ValueError, match="no run"):
        read_discovery(empty.store)


def test_vectors_are_read_by_image_and_box(small):
    found = read_stored_vectors(small.store)
    rows = sorted(small.rows("image_embeddings"), key=lambda row: row["image_id"])
    np.testing.assert_array_equal(found.images, np.array([row["vector"] for row in rows], np.float16))
    rois = {row["image_id"]: row["boxes"] for row in small.rows("rois")}
    assert found.counts.tolist() == [len(rois[row["image_id"]]) for row in rows]
    first = rows[0]["image_id"]
    assert found.rois_of(first, [tuple(box) for box in rois[first]]).shape == (found.counts[0], 512)
    with pytest.raises(KeyError):
        found.rois_of(first, [(0, 0, 1, 1)])


def test_gallery_has_a_row_an_image_and_a_column_a_kind(small):
    mined = read_discovery(small.store)
    kinds = {
        "mined": mined.pairs,
        "largest": largest_pairs(mined.pairs, mined.rois),
        "matched": matched_pairs(mined.pairs, mined.rois, mined.sizes, 0),
    }
    picture = Image.open(io.BytesIO(gallery(small.store, mined, kinds, 2, 0)))
    assert picture.size == (3 * 640, 34 + 2 * 340)
    for column in range(3):
        for row in range(2):
            cell = picture.crop((640 * column, 34 + 340 * row, 640 * (column + 1), 34 + 340 * (row + 1)))
            assert np.asarray(cell.convert("L")).std() > 5


def test_untrained_weights_stand_in_the_copy_for_training(small, tmp_path):
    folder = tmp_path / "untrained"
    copy_without_training(small.store, flatten(small.config), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["untrained"]
    copied = SmallStore(small.config, Store(folder))
    states = {name: copied.plan(name).state for name in ("rois", "near_duplicates", "image_level", "image_embeddings")}
    assert states == dict(zip(states, [State.DONE, State.DONE, State.DONE, State.RUN], strict=True))
    record = copied.plan("image_level").records[0]
    weights = load(copied.store.read_file("image_level", record.key, WEIGHTS))
    wanted = fresh_weights(small.config, "image_level")
    assert weights.keys() == wanted.keys()
    assert all((weights[name] == wanted[name]).all() for name in wanted)


def test_a_copy_that_fails_leaves_nothing_that_a_job_would_train_on(small, tmp_path, monkeypatch):
    def fail(*_):
        raise StoreError("no room")

    monkeypatch.setattr("benchmarks.untrained_discovery.write_in_place_of_training", fail)
    with pytest.raises(StoreError, match="no room"):
        copy_without_training(small.store, flatten(small.config), tmp_path / "untrained")
    assert not (tmp_path / "untrained").exists()
