"""Approximate indexes: what they find is scored exactly, they miss little, and nothing but the shard matters."""

import faiss
import numpy as np
import pytest

from orl_ray.mining.approximate_search import ApproximateIndex
from orl_ray.mining.exact_search import ExactIndex
from orl_ray.mining.shard_vectors import shard_vectors

KINDS = ["ivf", "hnsw", "pq"]
COUNT, LENGTH, K = 4000, 32, 10


@pytest.fixture(autouse=True)
def one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def clustered():
    """Return shuffled ids and vectors around 100 centres."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, LENGTH))[rng.integers(0, 100, COUNT)] + rng.normal(size=(COUNT, LENGTH))
    vectors = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    return rng.permutation(3 * COUNT)[:COUNT], vectors


@pytest.fixture(scope="module")
def indexes(clustered):
    return {kind: build(kind, *clustered) for kind in KINDS}


@pytest.fixture(scope="module")
def exact(clustered):
    ids, vectors = clustered
    return ExactIndex(shard_vectors(ids, [vectors], LENGTH)).search(vectors[:300], ids[:300], K)


def build(kind, ids, vectors, *, seed=0, effort=1, groups=None):
    shard = shard_vectors(ids, [vectors], vectors.shape[1], groups, narrow=True, mapped=kind == "pq")
    return ApproximateIndex(shard, kind, seed, effort)


def recall(found, exact):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.ids, exact.ids, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_most_neighbours_are_found_and_all_similarities_are_exact(kind, clustered, indexes, exact):
    ids, vectors = clustered
    found = indexes[kind].search(vectors[:300], ids[:300], K)
    assert recall(found, exact) > 0.9
    places = {image_id: place for place, image_id in enumerate(ids.tolist())}
    neighbours = vectors[[[places[i] for i in row] for row in found.ids.tolist()]].astype(np.float64)
    np.testing.assert_array_equal(
        found.similarities, np.einsum("qkd,qd->qk", neighbours, vectors[:300].astype(np.float64))
    )
    assert not (found.ids == ids[:300, None]).any()
    order = np.lexsort((found.ids, -found.similarities))
    np.testing.assert_array_equal(order, np.broadcast_to(np.arange(K), order.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_an_approximate_index_can_miss_neighbours(kind, clustered, indexes, exact):
    # The tests of recall would hold for a scan as well: this tells that it is none.
    ids, vectors = clustered
    far = np.random.default_rng(1).normal(size=(500, LENGTH))
    far = (far / np.linalg.norm(far, axis=1, keepdims=True)).astype(np.float16)
    nobody = np.full(500, -5)
    found = indexes[kind].search(far, nobody, 100)
    whole = ExactIndex(shard_vectors(ids, [vectors], LENGTH)).search(far, nobody, 100)
    assert recall(found, whole) < 1


@pytest.mark.parametrize("kind", KINDS)
def test_threads_batches_of_queries_and_the_order_of_parts_change_nothing(kind, clustered, indexes):
    ids, vectors = clustered
    found = indexes[kind].search(vectors[:300], ids[:300], K)
    faiss.omp_set_num_threads(2)
    again = build(kind, ids[::-1], vectors[::-1])
    pieces = [again.search(vectors[rows], ids[rows], K) for rows in (slice(0, 7), slice(7, 300))]
    for one, other in zip(found, map(np.concatenate, zip(*pieces, strict=True)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert faiss.omp_get_max_threads() == 2


def test_more_effort_misses_less(clustered, indexes):
    ids, vectors = clustered
    far = np.random.default_rng(1).normal(size=(200, LENGTH))
    far = (far / np.linalg.norm(far, axis=1, keepdims=True)).astype(np.float16)
    nobody = np.full(200, -5)
    whole = ExactIndex(shard_vectors(ids, [vectors], LENGTH)).search(far, nobody, K)
    little = recall(indexes["ivf"].search(far, nobody, K), whole)
    assert recall(build("ivf", ids, vectors, effort=4).search(far, nobody, K), whole) > little


@pytest.mark.parametrize("kind", KINDS)
def test_a_film_that_takes_up_all_candidates_leaves_the_neighbours_of_others(kind, clustered):
    ids, vectors = clustered
    vectors = vectors.copy()
    vectors[:400] = vectors[0]
    groups = ids.copy()
    groups[:400] = ids[:400].min()
    found = build(kind, ids, vectors, groups=groups).search(vectors[:3], groups[:3], K)
    expected = ExactIndex(shard_vectors(ids, [vectors], LENGTH, groups)).search(vectors[:3], groups[:3], K)
    np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_small_shard_is_searched_exactly(kind, count, clustered):
    ids, vectors = clustered[0][:count], clustered[1][:count]
    queries, query_ids = clustered[1][:20], clustered[0][:20]
    found = build(kind, ids, vectors).search(queries, query_ids, K)
    expected = ExactIndex(shard_vectors(ids, [vectors], LENGTH)).search(queries, query_ids, K)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.similarities, expected.similarities)


def test_an_exact_search_of_an_approximate_index_is_exact(clustered, indexes, exact):
    ids, vectors = clustered
    found = indexes["pq"].search_exactly(vectors[:300], ids[:300], K)
    np.testing.assert_array_equal(found.ids, exact.ids)
    np.testing.assert_array_equal(found.similarities, exact.similarities)


def test_codes_cut_vectors_of_any_length_evenly():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2100, 13))  # a prime: one code for all 13 numbers
    vectors = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    found = build("pq", np.arange(2100), vectors).search(vectors[:5], np.arange(5), 3)
    assert np.isfinite(found.similarities).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_queries_are_refused(kind, indexes):
    with pytest.raises(ValueError, match="at least one neighbour"):
        indexes[kind].search(np.zeros((0, LENGTH), np.float16), np.zeros(0), 0)
    with pytest.raises(ValueError, match="the index needs"):
        indexes[kind].search(np.eye(3, dtype=np.float16), np.arange(3), 1)


def test_an_unknown_kind_is_refused(clustered):
    with pytest.raises(ValueError, match="no such kind"):
        build("annoy", *clustered)
