"""Keyed random draws: the same key gives the same numbers on any worker, in any order, after any restart.

A draw is a pure function of (stream, id, counter). The stream folds a seed and names (stage, epoch, role, view,
operation) into 64 bits; ids are usually image ids, so that one call draws for a whole batch. The mixer is
SplitMix64's finaliser (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), applied
once for the id and once for the counter.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEISTEL_ROUNDS = 6


def stream(seed: int, *names: str | int) -> int:
    """Fold a seed and names into the 64-bit key of a stream of draws.

    Args:
        seed: the run's seed.
        names: what is drawn, outermost first, for example ``("object_level", epoch, "intra", "jitter")``.

    Returns:
        An integer in [0, 2**64).
    """
    text = "\x1f".join([repr(seed), *map(repr, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniform(key: int, ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Draw ``count`` numbers in [0, 1) for each id.

    Args:
        key: a stream's key, from :func:`stream`.
        ids: (n,) int64; rows with the same id get the same numbers.
        count: numbers an id.

    Returns:
        (n, count) float64.
    """
    counters = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        rows = _mix(np.asarray(ids).astype(np.uint64) ^ np.uint64(key))
        bits = _mix(rows[:, None] + counters[None, :] * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(key: int, ids: NDArray[np.int64], limits: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Draw one integer in [0, limit) for each id.

    Args:
        key: a stream's key.
        ids: (n,) int64.
        limits: (n,) int64 or one integer, each at least 1.

    Returns:
        (n,) int64.
    """
    return np.floor(uniform(key, ids, 1)[:, 0] * limits).astype(np.int64)


def permute(key: int, positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Map positions through a keyed permutation of range(size), in memory bounded by ``positions``.

    A Feistel network permutes the next power of four; values that fall outside are walked on until they come back
    (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Args:
        key: a stream's key.
        positions: (n,) int64 in [0, size).
        size: the length of the permuted range.

    Returns:
        (n,) int64 in [0, size).

    Raises:
        ValueError: a position lies outside the range.
    """
    positions = np.asarray(positions, dtype=np.int64)
    if positions.size and (positions.min() < 0 or positions.max() >= size):
        raise ValueError(f"positions must lie in [0, {size})")
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    values = _feistel(key, positions.astype(np.uint64), half)
    while (outside := values >= size).any():
        values[outside] = _feistel(key, values[outside], half)
    return values.astype(np.int64)


def _feistel(key: int, values: NDArray[np.uint64], half: int) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for turn in range(_FEISTEL_ROUNDS):
        round_key = np.uint64(stream(key, turn))
        with np.errstate(over="ignore"):
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << shift) | right


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
