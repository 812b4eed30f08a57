"""Which images' RoI vectors move between shards, so that every image meets its neighbours and the fewest bytes move.

A pair of images in one shard moves nothing. Between two shards the images and their neighbours form a bipartite graph,
and each edge needs one of its ends in the other's shard: what moves is a vertex cover, weighed by RoIs. By Koenig's
theorem the lightest one is a minimum cut. An image with many RoIs and one neighbour in the other shard stays where it
is, and so does one whose neighbours move anyway for others.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ShardCall(NamedTuple):
    """Edges that are matched in one shard.

    Attributes:
        shard: where.
        edges: (e,) int64 positions of the edges, rising.
        source: the shard that sends vectors, -1 where nothing moves.
        moved: (m,) int64 ids of the images whose vectors it sends, rising.
    """

    shard: int
    edges: NDArray[np.int64]
    source: int
    moved: NDArray[np.int64]


def plan_calls(edges: NDArray[np.int64], shards: NDArray[np.int64], rois: NDArray[np.int64]) -> list[ShardCall]:
    """Decide where each (image, neighbour) is matched, and which images' vectors move there.

    Args:
        edges: (E, 2) image ids.
        shards: (E, 2) the shard of each of them.
        rois: (E, 2) their RoIs, at least 1.

    Returns:
        Calls that hold each edge once: one for each shard, and up to two for each pair of shards. The RoIs that move
        between two shards are as few as can be.
    """
    calls = []
    for shard in np.unique(shards):
        own = np.flatnonzero((shards == shard).all(axis=1))
        if own.size:
            calls.append(ShardCall(int(shard), own, -1, np.empty(0, np.int64)))
    low, high = shards.min(axis=1), shards.max(axis=1)
    for first, second in np.unique(np.stack([low, high], axis=1)[low < high], axis=0).tolist():
        between = np.flatnonzero((low == first) & (high == second))
        flipped = shards[between, 0] != first
        ends = np.where(flipped[:, None], edges[between][:, ::-1], edges[between])
        weights = np.where(flipped[:, None], rois[between][:, ::-1], rois[between])
        covered, (left, right) = _cover_ids(ends, weights)
        calls += [
            ShardCall(shard, between[here], source, moved)
            for shard, here, source, moved in ((second, covered, first, left), (first, ~covered, second, right))
            if here.any()
        ]
    return calls


def _cover_ids(
    ends: NDArray[np.int64], weights: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return which (E, 2) edges have their left end in the cover, and the ids of the cover's two sides."""
    left, left_first, left_at = np.unique(ends[:, 0], return_index=True, return_inverse=True)
    right, right_first, right_at = np.unique(ends[:, 1], return_index=True, return_inverse=True)
    in_left, in_right = lightest_cover(
        np.stack([left_at, right_at], axis=1), weights[left_first, 0], weights[right_first, 1]
    )
    return in_left[left_at], (left[in_left], right[in_right])


def lightest_cover(
    edges: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find a vertex cover of least weight in a bipartite graph.

    Args:
        edges: (E, 2) positions in ``left`` and in ``right``; an edge may occur twice.
        left: (L,) positive integer weights.
        right: (R,) likewise.

    Returns:
        (L,) and (R,) bool: the vertices taken. Every edge has an end among them.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    source, sink = len(left) + len(right), len(left) + len(right) + 1
    pairs = np.unique(edges, axis=0)
    lefts, rights = np.arange(len(left)), len(left) + np.arange(len(right))
    tails = np.concatenate([np.full(len(left), source), pairs[:, 0], rights])
    heads = np.concatenate([lefts, len(left) + pairs[:, 1], np.full(len(right), sink)])
    unbounded = np.full(len(pairs), left.sum() + right.sum() + 1)
    limits = np.concatenate([left, unbounded, right]).astype(np.int32)
    capacity = csr_array((limits, (tails, heads)), shape=(sink + 1, sink + 1))
    residual = (capacity - maximum_flow(capacity, source, sink).flow).tocsr()
    residual.eliminate_zeros()
    reached = np.zeros(sink + 1, dtype=bool)
    reached[breadth_first_order(residual, source, return_predecessors=False)] = True
    return ~reached[lefts], reached[rights]
