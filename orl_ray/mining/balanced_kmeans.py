"""Shards by locality and of equal size: spherical k-means whose clusters have prices.

An image goes to the shard with the largest similarity minus price. Prices are the dual variables of the assignment
with equal capacities (transport problem): once they are found on a sample, they are frozen with the centres, so that
any image, also of a later part, is assigned by itself, and no later part moves an earlier one.

Every decision is exact or a fixed sequence of elementwise operations: centres lie on a grid of 2^-24 (see
:mod:`orl_ray.mining.exact_similarity`), sums of float16 vectors are exact in float64. So threads and BLAS change
nothing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.mining.exact_similarity import similarities, widen

_ROUNDS = 10
_STEPS_A_ROUND = 60
_STEPS_AT_THE_END = 1500
_OVERLOAD = 1.05
_BLOCK = 8192
# Enough for steady centres and prices of a few hundred shards; 32 MB at 256 numbers a vector.
_SAMPLE_IMAGES = 65_536


class Centroids(NamedTuple):
    """What assigns images to shards.

    Attributes:
        centers: (S, D) float32 unit vectors, whole multiples of 2^-24.
        prices: (S,) float32, the smallest 0; a similarity is lowered by its shard's price.
    """

    centers: NDArray[np.float32]
    prices: NDArray[np.float32]


def in_sample(image_ids: NDArray[np.int64], total: int, seed: int) -> NDArray[np.bool_]:
    """Tell which images centroids are fitted on: all of a small collection, about 65,536 drawn from a large one.

    Args:
        image_ids: (n,) int64, for example those of one part.
        total: images of the whole collection.
        seed: the run's seed.

    Returns:
        (n,) bool; each image's own draw, whatever part it lies in.
    """
    return draws.uniform(draws.stream(seed, "shards", "sample"), image_ids, 1)[:, 0] * total < _SAMPLE_IMAGES


def fit_centroids(vectors: NDArray[np.float16], shards: int, seed: int) -> Centroids:
    """Cluster a sample into shards of nearly equal size.

    Distinct vectors are balanced to within 5 % of the mean (or to the mean, rounded up) unless they form far more
    extreme clusters than image embeddings do; identical vectors share one shard, however many they are.

    Args:
        vectors: (n, D) unit float16 vectors of the sample, by rising image id.
        shards: clusters wanted, at least 1.
        seed: the run's seed; it draws the first centres.

    Returns:
        The centroids, frozen.

    Raises:
        ValueError: fewer vectors than shards, no shards, or vectors that are not unit float16.
    """
    if shards < 1 or len(vectors) < shards:
        raise ValueError(f"{len(vectors)} vectors cannot be cut into {shards} shards: each shard needs at least one")
    centers, prices = _first_centers(vectors, shards, seed), np.zeros(shards)
    for _ in range(_ROUNDS):
        prices, assignment = _balance(_scores(vectors, centers), prices, _STEPS_A_ROUND)
        moved = _means(vectors, assignment, centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    prices, _ = _balance(_scores(vectors, centers), prices, _STEPS_AT_THE_END)
    return Centroids(centers, prices.astype(np.float32))


def assign(vectors: NDArray[np.float16], centroids: Centroids) -> NDArray[np.int32]:
    """Assign images to shards.

    Args:
        vectors: (n, D) unit float16 vectors.
        centroids: from :func:`fit_centroids`.

    Returns:
        (n,) int32 in [0, S): the largest similarity minus price, ties to the lower shard.

    Raises:
        ValueError: vectors that are not unit float16 of the centres' length.
    """
    if vectors.ndim == 2 and vectors.shape[1] != centroids.centers.shape[1]:
        raise ValueError(
            f"vectors of length {vectors.shape[1]} do not fit centres of length {centroids.centers.shape[1]}"
        )
    shards: NDArray[np.int64] = np.argmax(_scores(vectors, centroids.centers) - centroids.prices, axis=1)
    return shards.astype(np.int32)


def _scores(vectors: NDArray[np.float16], centers: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = centers.astype(np.float64)
    blocks = (vectors[start : start + _BLOCK] for start in range(0, max(1, len(vectors)), _BLOCK))
    return np.concatenate([similarities(widen(block, "image vectors"), wide) for block in blocks])


def _first_centers(vectors: NDArray[np.float16], shards: int, seed: int) -> NDArray[np.float32]:
    """Draw centres that lie far apart (Arthur & Vassilvitskii, "k-means++", SODA 2007)."""
    turns = draws.uniform(draws.stream(seed, "shards", "centers"), np.arange(shards), 1)[:, 0]
    centers = np.empty((shards, vectors.shape[1]), np.float32)
    # Squared distances from the rounded vectors' own norms are exact, so a copy of a chosen vector is at 0.
    norms = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    distances = np.ones(len(vectors))
    for shard, turn in enumerate(turns):
        mass = np.cumsum(distances)
        # Where all vectors are chosen already, every one is as good as another.
        mass = mass if mass[-1] > 0 else np.arange(1.0, len(vectors) + 1)
        chosen = min(int(np.searchsorted(mass, turn * mass[-1], side="right")), len(vectors) - 1)
        centers[shard] = vectors[chosen]
        from_center = norms + norms[chosen] - 2 * _scores(vectors, centers[shard : shard + 1])[:, 0]
        distances = np.minimum(distances, from_center) if shard else from_center
    return centers


def _means(
    vectors: NDArray[np.float16], assignment: NDArray[np.int64], centers: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Move each centre to its members' mean direction; one without members, or with a mean of zero, stays."""
    moved = centers.copy()
    for shard in range(len(centers)):
        total = vectors[assignment == shard].sum(axis=0, dtype=np.float64)
        norm = np.sqrt((total * total).sum())
        if norm > 0:
            moved[shard] = np.rint(total / norm * 2.0**24) / 2.0**24
    return moved


def _balance(
    scores: NDArray[np.float64], prices: NDArray[np.float64], steps: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Raise the prices of overfull shards and lower those of underfull ones until the largest shard is small enough.

    This descends the dual of the balanced assignment along the signs of its gradient, each shard with a step of its
    own that grows while its sign holds and shrinks when it flips (Rprop: Riedmiller & Braun, ICNN 1993). Steps of
    their own matter: tight clusters that share several shards need both long common moves and very short relative
    ones.

    Args:
        scores: (n, S) similarities.
        prices: (S,) where to start.
        steps: most steps taken.

    Returns:
        Of the prices met those with the smallest largest shard, float32 values with minimum 0; and the (n,)
        assignment under them.
    """
    count, shards = scores.shape
    enough = max(-(-count // shards), int(_OVERLOAD * count / shards))
    stride, before = np.full(shards, 0.01), np.zeros(shards)
    best, least = (prices, np.empty(0, np.int64)), count + 1
    for _ in range(steps):
        rounded = (prices - prices.min()).astype(np.float32).astype(np.float64)
        assignment = (scores - rounded).argmax(axis=1)
        sizes = np.bincount(assignment, minlength=shards)
        if sizes.max() < least:
            best, least = (rounded, assignment), sizes.max()
        if least <= enough:
            break
        excess = np.sign(sizes * shards - count)
        agreement = excess * before
        stride = np.clip(stride * np.where(agreement > 0, 1.2, np.where(agreement < 0, 0.5, 1.0)), 1e-9, 0.25)
        prices, before = prices + stride * excess, excess
    return best
