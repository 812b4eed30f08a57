"""Exact search: equal, bit by bit, to a full sort in float64, whatever the shards, batches and ties."""

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.mining import exact_search
from orl_ray.mining import shard_vectors as gathering
from orl_ray.mining.exact_search import ExactIndex, Neighbors, merge_neighbors
from orl_ray.mining.shard_vectors import shard_vectors


@pytest.fixture(autouse=True)
def one_thread():
    """Keep faiss's and OpenMP's threads from fighting over the cores of a small machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def index_of(ids, vectors, groups=None):
    """Index vectors that come in two parts, as from a store."""
    half = len(vectors) // 2
    return ExactIndex(shard_vectors(ids, [vectors[:half], vectors[half:]], vectors.shape[1], groups))


def unit(values):
    """Normalise rows and round them to float16."""
    values = np.asarray(values, np.float64)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def brute_force(ids, vectors, queries, query_ids, k):
    """Sort every image by (falling exact similarity, rising id), without the query's own."""
    matrix = queries.astype(np.float64) @ vectors.astype(np.float64).T
    found = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
    for row in range(len(queries)):
        order = [i for i in np.lexsort((ids, -matrix[row])) if ids[i] != query_ids[row]][:k]
        found[0][row, : len(order)], found[1][row, : len(order)] = ids[order], matrix[row, order]
    return Neighbors(*found)


def brute_force_by_group(ids, vectors, groups, rows, k):
    """Sort every image by (falling exact similarity, rising id), without those of the query's group."""
    matrix = vectors[rows].astype(np.float64) @ vectors.astype(np.float64).T
    found = np.full((len(rows), k), -1), np.full((len(rows), k), -np.inf)
    for at, row in enumerate(rows):
        order = [i for i in np.lexsort((ids, -matrix[at])) if groups[i] != groups[row]][:k]
        found[0][at, : len(order)], found[1][at, : len(order)] = ids[order], matrix[at, order]
    return Neighbors(*found)


def assert_same(found, expected):
    """Compare ids and the bits of similarities."""
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.similarities, expected.similarities)


def collection(kind, count=400, length=32, seed=0):
    """Return shuffled ids and vectors: random, clusters so tight that float32 confuses them, or duplicates."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        vectors = unit(rng.normal(size=(count, length)))
    elif kind == "clustered":
        vectors = unit(
            rng.normal(size=(5, length))[rng.integers(0, 5, count)] + 0.002 * rng.normal(size=(count, length))
        )
    else:
        vectors = unit(rng.normal(size=(6, length)))[rng.integers(0, 6, count)]
    return rng.permutation(10 * count)[:count].astype(np.int64), vectors


KINDS = ["random", "clustered", "duplicates"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 10, 399, 500])
def test_neighbours_equal_brute_force(kind, k):
    ids, vectors = collection(kind)
    found = index_of(ids, vectors).search(vectors[:60], ids[:60], k)
    assert_same(found, brute_force(ids, vectors, vectors[:60], ids[:60], k))
    assert found.ids.dtype == np.int64
    assert found.similarities.dtype == np.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [2, 3, 7])
def test_shards_merge_to_the_result_of_one_index(kind, shards):
    ids, vectors = collection(kind)
    whole = index_of(ids, vectors).search(vectors, ids, 10)
    shard = np.random.default_rng(shards).integers(0, shards, len(ids))
    parts = [index_of(ids[shard == s], vectors[shard == s]).search(vectors, ids, 10) for s in range(shards)]
    assert_same(merge_neighbors(parts, 10), whole)
    assert_same(merge_neighbors(parts[::-1], 10), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_query_batches_change_nothing(kind, batch):
    ids, vectors = collection(kind)
    index = index_of(ids, vectors)
    whole = index.search(vectors[:100], ids[:100], 10)
    for start in range(0, 100, batch):
        rows = slice(start, min(start + batch, 100))
        part = index.search(vectors[rows], ids[rows], 10)
        assert_same(part, Neighbors(whole.ids[rows], whole.similarities[rows]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_neighbours_equal_brute_force_for_any_number_of_shards_and_threads(kind, shards, threads):
    faiss.omp_set_num_threads(threads)
    ids, vectors = collection(kind, length=256)
    shard = np.random.default_rng(shards).integers(0, shards, len(ids))
    parts = [index_of(ids[shard == s], vectors[shard == s]).search(vectors[:40], ids[:40], 10) for s in range(shards)]
    assert_same(merge_neighbors(parts, 10), brute_force(ids, vectors, vectors[:40], ids[:40], 10))


@pytest.mark.real
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_neighbours_of_real_embeddings_equal_brute_force(real_embeddings, shards, threads):
    faiss.omp_set_num_threads(threads)
    ids, vectors = real_embeddings
    parts = [
        index_of(ids[ids % shards == s], vectors[ids % shards == s]).search(vectors, ids, 20) for s in range(shards)
    ]
    assert_same(merge_neighbors(parts, 20), brute_force(ids, vectors, vectors, ids, 20))


@pytest.fixture(scope="module")
def real_embeddings(scenes_root):
    """Embed photographs of COCO by an untrained ResNet-18, whose vectors are much alike."""
    backbone = build_backbone("resnet18").eval()
    initialise(backbone, 0, "test")
    files = sorted((scenes_root / "coco_dev" / "images").iterdir())[:96]
    crops = np.stack([np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files])
    with torch.inference_mode():
        pooled = backbone(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    return np.random.default_rng(0).permutation(1000)[: len(files)], unit(pooled)


@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="faiss sees no GPU: install requirements-gpu.lock on a GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 10, 500])
def test_a_gpu_finds_what_a_cpu_finds(kind, k):
    ids, vectors = collection(kind, count=3000, length=256)
    shard = shard_vectors(ids, [vectors], 256)
    on_gpu = ExactIndex(shard, on_gpu=True)
    assert_same(on_gpu.search(vectors[:200], ids[:200], k), ExactIndex(shard).search(vectors[:200], ids[:200], k))


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="faiss sees a GPU")
def test_a_missing_gpu_is_told():
    with pytest.raises(RuntimeError, match="faiss sees no GPU"):
        ExactIndex(shard_vectors(np.arange(3), [unit(np.eye(3))], 3), on_gpu=True)


def test_more_neighbours_than_a_gpu_selects_are_refused():
    exact_search.check_gpu_candidates(2015)
    with pytest.raises(ValueError, match="at most 2015 neighbours, not 2016"):
        exact_search.check_gpu_candidates(2016)


def test_similarities_of_less_than_float32_are_noticed(monkeypatch):
    # As by a GPU that is forced to TF32: the proof that no neighbour is missed would not hold.
    knn = faiss.knn

    def tf32(queries, vectors, *rest, **more):
        similarities, positions = knn(queries, vectors, *rest, **more)
        return (similarities.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32), positions

    ids, vectors = collection("random", length=256)
    index = index_of(ids, vectors)
    index.search(vectors, ids, 10)
    monkeypatch.setattr(faiss, "knn", tf32)
    with pytest.raises(ArithmeticError, match="TF32"):
        index.search(vectors, ids, 10)


def test_float16_vectors_are_no_flat_index():
    with pytest.raises(ValueError, match="float32"):
        ExactIndex(shard_vectors(np.arange(3), [unit(np.eye(3))], 3, narrow=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4), st.integers(1, 70), st.booleans())
def test_small_collections_equal_brute_force(seed, count, length, k, shuffled_ids):
    rng = np.random.default_rng(seed)
    vectors = unit(rng.integers(0, 3, (count, length)) + np.eye(1, length))
    ids = rng.permutation(count) if shuffled_ids else np.arange(count) - 5
    queries, query_ids = vectors[: count // 2 + 1], ids[: count // 2 + 1]
    expected = brute_force(ids, vectors, queries, query_ids, k)
    assert_same(index_of(ids, vectors).search(queries, query_ids, k), expected)
    shard = rng.integers(0, 3, count)
    parts = [index_of(ids[shard == s], vectors[shard == s]).search(queries, query_ids, k) for s in range(3)]
    assert_same(merge_neighbors(parts, k), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("sizes", ["bursts", "one film"])
def test_images_of_the_querys_group_are_no_neighbours_for_any_number_of_shards(kind, shards, sizes):
    ids, vectors = collection(kind)
    # A film whose frames all look alike takes up every candidate of its own queries.
    groups = np.sort(ids)[np.argsort(np.argsort(ids)) // 5 * 5] if sizes == "bursts" else ids.copy()
    if sizes == "one film":
        film = np.argsort(-(vectors.astype(float) @ vectors[0].astype(float)))[:200]
        groups[film] = ids[film].min()
    rows = np.arange(0, 400, 7)
    expected = brute_force_by_group(ids, vectors, groups, rows, 10)
    shard = np.random.default_rng(shards).integers(0, shards, len(ids))
    indices = [index_of(ids[shard == s], vectors[shard == s], groups[shard == s]) for s in range(shards)]
    found = merge_neighbors([index.search(vectors[rows], groups[rows], 10) for index in indices], 10)
    assert_same(found, expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 8), st.integers(1, 70))
def test_small_collections_in_groups_equal_brute_force(seed, count, groups, k):
    rng = np.random.default_rng(seed)
    vectors = unit(rng.integers(0, 3, (count, 3)) + np.eye(1, 3))
    ids, groups = rng.permutation(count), rng.integers(0, groups, count)
    found = index_of(ids, vectors, groups).search(vectors, groups, k)
    assert_same(found, brute_force_by_group(ids, vectors, groups, np.arange(count), k))


def test_a_film_is_searched_in_bounded_blocks(monkeypatch):
    ids, vectors = np.arange(3000), unit(np.random.default_rng(0).normal([5, 0, 0, 0, 0, 0, 0, 0], 1, (3000, 8)))
    groups = np.maximum(ids, 2500)  # all but 500 are one film
    widths = []
    top = exact_search._top

    def watched(ids, found, k):
        widths.append(found.size)
        return top(ids, found, k)

    monkeypatch.setattr(exact_search, "_top", watched)
    monkeypatch.setattr(gathering, "BLOCK_ROWS", 500)
    monkeypatch.setattr(exact_search, "_SCAN_QUERIES", 16)
    found = index_of(ids, vectors, groups).search(vectors[:300], groups[:300], 10)
    assert max(widths) <= max(16 * 500, 300 * 43)
    assert_same(found, brute_force_by_group(ids, vectors, groups, np.arange(300), 10))


def test_blocks_of_queries_and_of_the_scan_change_nothing(monkeypatch):
    ids, vectors = collection("duplicates")
    whole = index_of(ids, vectors).search(vectors, ids, 10)
    monkeypatch.setattr(exact_search, "_WORKING_NUMBERS", 5 * 43 * 32)
    monkeypatch.setattr(exact_search, "_QUERIES", 13)
    monkeypatch.setattr(gathering, "BLOCK_ROWS", 37)
    monkeypatch.setattr(exact_search, "_SCAN_QUERIES", 2)
    assert_same(index_of(ids, vectors).search(vectors, ids, 10), whole)


def test_random_vectors_need_no_scan_and_duplicates_do(monkeypatch):
    scanned = []
    scan = exact_search.scan

    def counted(shard, queries, query_groups, k):
        scanned.append(len(queries))
        return scan(shard, queries, query_groups, k)

    monkeypatch.setattr(exact_search, "scan", counted)
    ids, vectors = collection("random")
    index_of(ids, vectors).search(vectors, ids, 10)
    assert scanned == []
    ids, vectors = collection("duplicates")
    index_of(ids, vectors).search(vectors, ids, 10)
    assert sum(scanned) == len(ids)


def test_more_equal_images_than_candidates_are_ordered_by_id():
    vectors = unit(np.ones((300, 16)))
    ids = np.random.default_rng(0).permutation(300)
    found = index_of(ids, vectors).search(vectors[:3], ids[:3], 5)
    for row in range(3):
        assert found.ids[row].tolist() == [i for i in range(10) if i != ids[row]][:5]


def test_self_is_excluded_by_id_and_its_duplicates_are_kept():
    vectors = unit([[1, 0], [1, 0], [1, 0], [0, 1]])
    found = index_of(np.array([5, 3, 9, 1]), vectors).search(vectors, np.array([5, 3, 9, 1]), 3)
    assert found.ids.tolist() == [[3, 9, 1], [5, 9, 1], [3, 5, 1], [3, 5, 9]]
    assert found.similarities[0].tolist() == [1, 1, 0]


def test_a_query_that_is_not_indexed_loses_nothing():
    vectors = unit(np.eye(3))
    found = index_of(np.arange(3), vectors).search(vectors[:1], np.array([77]), 1)
    assert found.ids.tolist() == [[0]]


def test_missing_neighbours_are_padded():
    vectors = unit(np.eye(2))
    found = index_of(np.array([4, 2]), vectors).search(vectors[:1], np.array([4]), 3)
    assert found.ids.tolist() == [[2, -1, -1]]
    assert found.similarities.tolist() == [[0, -np.inf, -np.inf]]


def test_an_empty_shard_finds_nothing():
    found = index_of(np.zeros(0, np.int64), np.zeros((0, 2), np.float16)).search(unit(np.eye(2)), np.arange(2), 2)
    assert (found.ids == -1).all()
    assert np.isneginf(found.similarities).all()
    assert found.ids.shape == (2, 2)


def test_no_queries_give_no_rows():
    ids, vectors = collection("random")
    assert index_of(ids, vectors).search(vectors[:0], ids[:0], 4).ids.shape == (0, 4)


def test_a_negative_image_id_is_an_id_like_others():
    vectors = unit([[1, 0], [1, 0.1], [0, 1]])
    found = index_of(np.array([-1, -7, 0]), vectors).search(vectors, np.array([-1, -7, 0]), 2)
    assert found.ids.tolist() == [[-7, 0], [-1, 0], [-7, -1]]


def test_an_image_whose_id_is_the_padding_survives_merging():
    one = Neighbors(np.array([[-1, -1]]), np.array([[0.5, -np.inf]]))
    other = Neighbors(np.array([[3, -1]]), np.array([[0.25, -np.inf]]))
    assert merge_neighbors([one, other], 3).ids.tolist() == [[-1, 3, -1]]
    assert merge_neighbors([one, other], 3).similarities.tolist() == [[0.5, 0.25, -np.inf]]


def test_merging_fewer_or_more_columns_than_k():
    one = Neighbors(np.array([[4]]), np.array([[0.5]]))
    other = Neighbors(np.array([[9, 2, -1]]), np.array([[0.5, 0.25, -np.inf]]))
    assert merge_neighbors([one, other], 2).ids.tolist() == [[4, 9]]
    assert merge_neighbors([other, one], 5).ids.tolist() == [[4, 9, 2, -1, -1]]


@pytest.mark.parametrize("parts", [[], [Neighbors(np.zeros((1, 2)), np.zeros((1, 2))), Neighbors(np.zeros((2, 2)), 0)]])
def test_parts_of_other_queries_do_not_merge(parts):
    with pytest.raises(ValueError, match="same queries"):
        merge_neighbors(parts, 1)


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        ([1, 2], np.eye(3), "one id and one group"),
        ([1, 2, 1], np.eye(3), "image id 1 is in the index twice"),
        ([1, 2, 3], 2 * np.eye(3), "unit vectors"),
    ],
)
def test_bad_collections_are_refused(ids, vectors, message):
    with pytest.raises(ValueError, match=message):
        index_of(np.array(ids), vectors.astype(np.float16))


@pytest.mark.parametrize(
    ("queries", "query_ids", "k", "message"),
    [
        (np.eye(3), [1, 2, 3], 0, "at least one neighbour"),
        (np.eye(3), [1, 2], 1, "the index needs"),
        (np.eye(2), [1, 2], 1, "the index needs"),
        (np.zeros((1, 3)), [1], 1, "unit vectors"),
    ],
)
def test_bad_queries_are_refused(queries, query_ids, k, message):
    index = index_of(np.arange(3), unit(np.eye(3)))
    with pytest.raises(ValueError, match=message):
        index.search(queries.astype(np.float16), np.array(query_ids), k)
