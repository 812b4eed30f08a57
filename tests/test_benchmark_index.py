"""What ``benchmarks.index`` measures with, without Ray: its collection, and the brute force that it calls exact."""

import mmap
import os

import numpy as np
import pytest

from benchmarks.index import K, Sizes, anonymous_bytes, collection, equals_brute_force, read_parts, read_queries
from orl_ray.mining.exact_search import Neighbors, merge_neighbors
from orl_ray.mining.image_index_actor import ImageIndexActor

SIZES = Sizes(vectors=1100, width=16, shards=2, queries=90, part=250, rounds=2, checked=30)


@pytest.fixture(scope="module")
def small():
    """Yield the run over a small collection, its queries, and what the actors find for them."""
    with collection(SIZES) as run:
        ids, vectors = read_queries(run.store, SIZES.queries)
        actors = [ImageIndexActor(run.store, run.plan.manifests, shard, 1) for shard in range(SIZES.shards)]
        yield run, (ids, vectors), merge_neighbors([actor.search(vectors, ids, K) for actor in actors], K)


def test_a_collection_has_every_id_once_in_parts_of_rising_ids(small):
    parts = [ids for ids, _ in read_parts(small[0].store)]
    assert [len(ids) for ids in parts] == [250, 250, 250, 250, 100]
    assert all((np.diff(ids) > 0).all() for ids in parts)
    assert sorted(np.concatenate(parts)) == list(range(1100))
    assert max(map(np.ptp, parts[:4])) > 500  # scattered


def test_what_actors_find_is_exact(small):
    run, queries, found = small
    assert equals_brute_force(run.store, queries, found, SIZES)


@pytest.mark.parametrize("change", ["id", "similarity"])
def test_one_wrong_neighbour_is_not_exact(small, change):
    run, queries, found = small
    wrong = Neighbors(found.ids.copy(), found.similarities.copy())
    if change == "id":
        wrong.ids[0, K - 1] = 1_000_000
    else:
        wrong.similarities[0, 0] = np.nextafter(wrong.similarities[0, 0], 2)
    assert not equals_brute_force(run.store, queries, wrong, SIZES)


def test_anonymous_memory_grows_with_what_is_held_and_not_with_what_is_mapped(tmp_path):
    before = anonymous_bytes(os.getpid())
    held = mmap.mmap(-1, 2**25, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # new pages, none that were freed before
    held.write(b"1" * len(held))
    grown = anonymous_bytes(os.getpid())
    mapped = np.memmap(tmp_path / "file", np.uint8, "w+", shape=2**26)
    mapped[:] = 1
    assert grown - before >= 0.9 * len(held)
    assert anonymous_bytes(os.getpid()) - grown < mapped.nbytes / 2
