"""Photographs in slightly different copies: none of them is a neighbour of another, for any number of shards."""

import numpy as np
import pytest
from PIL import Image
from small_store import SmallStore, make_stage

from benchmarks.photo_copies import burst
from orl_ray.columns import vectors_of
from orl_ray.graph import main_job
from orl_ray.mining.neighbor_stage import check_size
from orl_ray.pipeline import State, up_to
from orl_ray.scenes.generated import render_scene
from orl_ray.scenes.near_duplicate_stage import read_groups

PHOTOGRAPHS, COPIES = 30, 5


def make_only(small, name):
    """Make a stage and what it needs, and no other."""
    for stage in up_to(main_job(), name):
        stage_plan = small.plan(stage.name)
        if stage_plan.state is State.RUN:
            make_stage(small.config, small.store, stage_plan)
    return small


def photographs(root):
    """Return real photographs, or generated scenes where there are none."""
    files = sorted((root / "coco_pool" / "images").iterdir())[:PHOTOGRAPHS] if root else []
    if files:
        return [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return [render_scene(0, "train", number, 144).image for number in range(PHOTOGRAPHS)]


@pytest.fixture(scope="module")
def bursts(tmp_path_factory, request):
    """Return a store over 30 photographs, each in 5 slightly different copies, as far as their neighbours."""
    try:
        root = request.getfixturevalue("scenes_root")
    except pytest.skip.Exception:
        root = None
    folder, rng = tmp_path_factory.mktemp("bursts"), np.random.default_rng(0)
    for number, photograph in enumerate(photographs(root)):
        for copy in range(COPIES):
            image = burst(photograph, rng) if copy else photograph
            Image.fromarray(image).save(folder / f"{number:02d}-{copy}.jpg", quality=90)
    overrides = ("source.kind=folder", f"source.images={folder}", "source.part_size=64", "mining.k_max=20")
    return make_only(SmallStore.new(folder / "store", *overrides), "neighbors")


def photograph_of(small):
    """Return image id -> number of the photograph that it is a copy of."""
    return {row["image_id"]: row["path"].split("-")[0] for row in small.rows("scenes")}


def test_the_groups_are_the_photographs(bursts):
    known, groups = photograph_of(bursts), read_groups(bursts.store, bursts.plan("near_duplicates").key)
    assert sorted(known) == groups.image_ids.tolist()
    names = dict(zip(groups.image_ids.tolist(), groups.groups.tolist(), strict=True))
    assert all(known[image_id] == known[name] for image_id, name in names.items())
    assert len(set(names.values())) == PHOTOGRAPHS
    (record,) = bursts.records("near_duplicates")
    assert record.facts == {"groups": 30, "images": 150, "largest": 5, "pairs": 300}


def test_no_near_copy_is_a_neighbour(bursts):
    known = photograph_of(bursts)
    for row in bursts.rows("neighbors"):
        assert len(row["neighbor_ids"]) == 20
        assert known[row["image_id"]] not in {known[neighbor] for neighbor in row["neighbor_ids"]}


def test_neighbours_are_those_of_brute_force_for_any_number_of_shards(bursts, tmp_path):
    tables, known = bursts.tables("image_embeddings"), photograph_of(bursts)
    ids = np.concatenate([table["image_id"].to_numpy() for table in tables])
    vectors = np.concatenate([vectors_of(table) for table in tables]).astype(np.float64)
    exact = vectors @ vectors.T
    for shards in (1, 2, 3):
        small = bursts.copy(tmp_path / f"{shards}").with_settings(mining={"shards": shards})
        for record in small.plan("neighbors").records:
            (small.store.root.local / "neighbors" / f"{record.key}.json").unlink()
        rows = make_only(small, "neighbors").rows("neighbors")
        assert small.plan("neighbors").content_hash == bursts.plan("neighbors").content_hash
    for row, similarities in zip(rows, exact, strict=True):
        others = [i for i in range(len(ids)) if known[ids[i]] != known[row["image_id"]]]
        order = sorted(others, key=lambda i: (-similarities[i], ids[i]))[:20]
        assert row["neighbor_ids"] == ids[order].tolist()


def test_where_they_may_be_near_copies_are_the_nearest(bursts, tmp_path):
    small = bursts.copy(tmp_path / "copy").with_settings(mining={"skip_near_duplicates": False})
    known = photograph_of(bursts)
    rows = make_only(small, "neighbors").rows("neighbors")
    assert all(row["image_id"] not in row["neighbor_ids"] for row in rows)
    nearest = [known[row["neighbor_ids"][0]] == known[row["image_id"]] for row in rows]
    assert np.mean(nearest) > 0.5


def test_a_collection_that_is_nearly_one_group_is_refused_in_words(bursts):
    manifests = bursts.plan("neighbors").manifests
    check_size(bursts.with_settings(mining={"k": 145}).config, bursts.store, manifests)
    config = bursts.with_settings(mining={"k": 146}).config
    with pytest.raises(ValueError, match=r"5 of the 150 images are near-duplicates.*skip_near_duplicates=false"):
        check_size(config, bursts.store, manifests)
    check_size(bursts.with_settings(mining={"k": 149, "skip_near_duplicates": False}).config, bursts.store, manifests)
    with pytest.raises(ValueError, match="only 150 images"):
        check_size(bursts.with_settings(mining={"k": 150}).config, bursts.store, manifests)
