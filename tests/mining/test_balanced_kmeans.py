"""Balanced k-means: shards of equal size on the sample, frozen, local, and the same on any machine of one kind."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.mining import balanced_kmeans
from orl_ray.mining.balanced_kmeans import Centroids, assign, fit_centroids, in_sample


def unit(values):
    """Normalise rows and round them to float16."""
    values = np.asarray(values, np.float64)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def collection(kind, count=2000, length=32, seed=0):
    """Return vectors: isotropic, five clusters, clusters of geometric sizes, or one narrow cone."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, length))
    if kind == "isotropic":
        return unit(noise)
    if kind == "clusters":
        return unit(rng.normal(size=(5, length))[rng.integers(0, 5, count)] + 0.3 * noise)
    if kind == "skewed":
        return unit(rng.normal(size=(12, length))[np.minimum(rng.geometric(0.4, count) - 1, 11)] + 0.2 * noise)
    return unit(rng.normal(size=(1, length)) + 0.01 * noise)


@pytest.mark.parametrize("kind", ["isotropic", "clusters", "skewed", "narrow"])
@pytest.mark.parametrize("shards", [2, 3, 8])
def test_shards_of_distinct_vectors_are_balanced_on_the_sample(kind, shards):
    vectors = collection(kind)
    sizes = np.bincount(assign(vectors, fit_centroids(vectors, shards, seed=0)), minlength=shards)
    assert sizes.max() <= 1.1 * len(vectors) / shards
    assert sizes.min() >= 0.5 * len(vectors) / shards


def test_unseen_vectors_of_the_same_kind_are_nearly_balanced():
    vectors = collection("clusters", 4000)
    sizes = np.bincount(assign(vectors[2000:], fit_centroids(vectors[:2000], 4, seed=0)), minlength=4)
    assert sizes.max() <= 1.25 * 500


def test_assignment_maximises_similarity_minus_price_and_ties_go_to_the_lower_shard():
    centers = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    vectors = unit([[1, 0], [0, 1], [1, 1], [0.6, 0.8]])
    assert assign(vectors, Centroids(centers, np.zeros(3, np.float32))).tolist() == [0, 1, 0, 1]
    assert assign(vectors, Centroids(centers, np.array([0, 0.5, 0.25], np.float32))).tolist() == [0, 2, 0, 0]
    assert assign(vectors, Centroids(centers, np.array([2, 0, 0], np.float32))).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("parts", [1, 3, 2000])
def test_parts_are_assigned_as_the_whole(parts):
    vectors = collection("skewed")
    centroids = fit_centroids(vectors, 5, seed=0)
    pieces = [assign(piece, centroids) for piece in np.array_split(vectors, parts)]
    np.testing.assert_array_equal(np.concatenate(pieces), assign(vectors, centroids))
    assert pieces[0].dtype == np.int32


def test_neighbours_mostly_share_a_shard():
    vectors = collection("clusters")
    shards = assign(vectors, fit_centroids(vectors, 5, seed=0))
    matrix = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(matrix, -1)
    # Random shards would share a fifth.
    assert (shards[matrix.argmax(axis=1)] == shards).mean() > 0.8


def test_separate_clusters_of_equal_size_are_found():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 100)
    vectors = unit(np.eye(4, 16)[truth] + 0.02 * rng.normal(size=(400, 16)))
    shards = assign(vectors, fit_centroids(vectors, 4, seed=0))
    assert len(set(zip(truth.tolist(), shards.tolist(), strict=True))) == 4


def test_centers_are_unit_vectors_on_the_grid_and_the_smallest_price_is_zero():
    centers, prices = fit_centroids(collection("skewed"), 6, seed=0)
    assert centers.dtype == prices.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centers.astype(np.float64), axis=1), 1, atol=1e-5)
    on_grid = centers.astype(np.float64) * 2.0**24
    np.testing.assert_array_equal(on_grid, np.rint(on_grid))
    assert prices.min() == 0


def test_one_shard_takes_all():
    vectors = collection("isotropic", 50)
    centroids = fit_centroids(vectors, 1, seed=0)
    assert centroids.prices.tolist() == [0]
    assert not assign(vectors, centroids).any()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.data())
def test_few_distinct_vectors_are_balanced_to_one(seed, count, data):
    shards = data.draw(st.integers(1, min(count, 6)))
    vectors = unit(np.random.default_rng(seed).normal(size=(count, 8)))
    sizes = np.bincount(assign(vectors, fit_centroids(vectors, shards, seed=1)), minlength=shards)
    assert sizes.sum() == count
    assert sizes.max() <= -(-count // shards) + 1


def test_identical_vectors_share_a_shard():
    vectors = unit(np.ones((30, 4)))
    assert len(set(assign(vectors, fit_centroids(vectors, 3, seed=0)).tolist())) == 1


def test_duplicates_beside_distinct_vectors_stay_together():
    vectors = np.concatenate([unit(np.ones((300, 8))), collection("isotropic", 300, 8)])
    shards = assign(vectors, fit_centroids(vectors, 3, seed=0))
    assert len(set(shards[:300].tolist())) == 1
    # The duplicates alone are more than a third; the others share the rest.
    assert np.bincount(shards, minlength=3).max() <= 360


@pytest.mark.parametrize("seed", range(10))
def test_first_centers_avoid_copies_of_those_already_drawn(seed):
    # Components that float16 rounds, so that a vector's product with itself is not exactly 1.
    kinds = unit(np.random.default_rng(1).normal(size=(4, 8)))
    vectors = kinds[np.concatenate([np.zeros(997, np.int64), [1, 2, 3]])]
    assert len(np.unique(balanced_kmeans._first_centers(vectors, 4, seed), axis=0)) == 4


def test_another_seed_draws_other_centers():
    vectors = collection("isotropic")
    assert not np.array_equal(fit_centroids(vectors, 4, 0).centers, fit_centroids(vectors, 4, 1).centers)


def test_threads_change_no_bit():
    code = (
        "import hashlib, numpy as np; from orl_ray.mining.balanced_kmeans import fit_centroids\n"
        "v = np.random.default_rng(0).normal(size=(1500, 64)); v /= np.linalg.norm(v, axis=1, keepdims=True)\n"
        "c = fit_centroids(v.astype(np.float16), 5, 0)\n"
        "print(hashlib.sha256(c.centers.tobytes() + c.prices.tobytes()).hexdigest())"
    )
    digests = set()
    for threads in ("1", "2"):
        variables = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
        digests.add(run.stdout)
    assert len(digests) == 1


def test_fitting_imports_no_faiss():
    code = "import sys, orl_ray.mining.balanced_kmeans, orl_ray.mining.matching; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("shards", [0, -1, 4])
def test_shards_that_cannot_be_filled_are_refused(shards):
    with pytest.raises(ValueError, match="cannot be cut into"):
        fit_centroids(unit(np.eye(3)), shards, 0)


def test_vectors_that_do_not_fit_are_refused():
    centroids = fit_centroids(unit(np.eye(3)), 2, 0)
    with pytest.raises(ValueError, match="do not fit"):
        assign(unit(np.eye(4)), centroids)
    with pytest.raises(ValueError, match="unit vectors"):
        assign(np.ones((1, 3), np.float16), centroids)
    with pytest.raises(ValueError, match="unit vectors"):
        fit_centroids(np.ones((3, 3), np.float16), 2, 0)


def test_no_vectors_are_assigned_to_no_shards():
    assert assign(np.zeros((0, 3), np.float16), fit_centroids(unit(np.eye(3)), 2, 0)).shape == (0,)


def test_a_small_collection_is_sampled_whole():
    assert in_sample(np.arange(1000), 1000, 0).all()


def test_a_large_collection_is_sampled_by_id():
    ids = np.arange(200_000)
    chosen = in_sample(ids, len(ids), 3)
    assert abs(chosen.sum() - 65_536) < 1500
    np.testing.assert_array_equal(in_sample(ids[500:900], len(ids), 3), chosen[500:900])
    assert not np.array_equal(in_sample(ids, len(ids), 4), chosen)
