"""Pairs of RoIs between an image and its neighbours: the largest entries of their similarity matrix.

The rule is the reference's (Jiahao000/ORL @ 2ad64f7, ``models/correspondence.py``): as many pairs a neighbour as a
share of the *query image's* RoIs, at least one, and no mutual check, so that a RoI of either image may stand in
several pairs.
"""

import math
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.exact_similarity import similarities, widen


class Pairs(NamedTuple):
    """RoI pairs between one image and one neighbour, by falling similarity.

    Attributes:
        query_index: (n,) int32 positions in the query image's RoIs.
        neighbor_index: (n,) int32 positions in the neighbour's RoIs.
        similarities: (n,) float64 cosines, exact.
    """

    query_index: NDArray[np.int32]
    neighbor_index: NDArray[np.int32]
    similarities: NDArray[np.float64]


def pair_count(rois: int, ratio: float) -> int:
    """Count the pairs a neighbour: max(1, floor(ratio * rois)).

    The ratio is taken as the decimal that it prints as, and multiplied exactly: in floating point 0.29 * 100 falls
    below 29. At the published ratio, 0.1, this equals the reference's ``int(0.1 * rois)``.

    Args:
        rois: the query image's RoIs, at least 1.
        ratio: pairs as a share of them, at least 0; it may exceed 1.

    Returns:
        The count, at least 1.

    Raises:
        ValueError: no RoIs, or a ratio that is negative or not finite.
    """
    if rois < 1:
        raise ValueError(f"an image has at least one RoI, not {rois}")
    if not (math.isfinite(ratio) and ratio >= 0):
        raise ValueError(f"the pair ratio must be a finite number of at least 0, not {ratio}")
    return max(1, math.floor(Fraction(str(float(ratio))) * int(rois)))


def match(query: NDArray[np.float16], neighbor: NDArray[np.float16], count: int) -> Pairs:
    """Pair the RoIs of an image with those of one neighbour.

    Args:
        query: (B, D) unit vectors of the image's RoIs.
        neighbor: (M, D) unit vectors of the neighbour's RoIs.
        count: pairs wanted, at least 1.

    Returns:
        The min(count, B * M) most similar pairs; ties by query position, then neighbour position. A smaller count
        gives a prefix.

    Raises:
        ValueError: vectors that are not unit float16 of one length, or a count below 1.
    """
    return match_block(query, neighbor, np.array([0, len(neighbor)], dtype=np.int64), count)[0]


def match_block(
    query: NDArray[np.float16], neighbors: NDArray[np.float16], offsets: NDArray[np.int64], count: int
) -> list[Pairs]:
    """Pair the RoIs of an image with those of several neighbours, by one matrix product.

    Args:
        query: (B, D) unit vectors of the image's RoIs.
        neighbors: (M, D) unit vectors of all neighbours' RoIs, one neighbour after another.
        offsets: (K + 1,) int64; neighbour j owns rows offsets[j] to offsets[j + 1].
        count: pairs wanted a neighbour, at least 1.

    Returns:
        For each of the K neighbours what :func:`match` returns for it alone.

    Raises:
        ValueError: vectors that are not unit float16 of one length, a count below 1, or offsets that do not cut the
            rows up.
    """
    if count < 1:
        raise ValueError(f"at least one pair a neighbour must be asked for, not {count}")
    offsets = np.asarray(offsets, dtype=np.int64)
    if not offsets.size or offsets[0] != 0 or offsets[-1] != len(neighbors) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets must rise from 0 to the {len(neighbors)} neighbour rows, not {offsets.tolist()}")
    wide_query, wide_neighbors = widen(query, "query RoIs"), widen(neighbors, "neighbour RoIs")
    if wide_query.shape[1] != wide_neighbors.shape[1]:
        raise ValueError(f"RoI vectors differ in length: {wide_query.shape[1]} and {wide_neighbors.shape[1]}")
    matrix = similarities(wide_query, wide_neighbors)
    return [_largest(matrix[:, start:stop], count) for start, stop in pairwise(offsets)]


def _largest(matrix: NDArray[np.float64], count: int) -> Pairs:
    """Return the ``count`` largest entries of one (B, M) matrix, ties by position."""
    flat = matrix.ravel()
    positions = np.arange(flat.size)
    if count < flat.size:
        threshold = np.partition(flat, flat.size - count)[flat.size - count]
        positions = np.flatnonzero(flat >= threshold)
    positions = positions[np.argsort(-flat[positions], kind="stable")[:count]]
    query_index, neighbor_index = np.divmod(positions, max(1, matrix.shape[1]))
    return Pairs(query_index.astype(np.int32), neighbor_index.astype(np.int32), flat[positions])
