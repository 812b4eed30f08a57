"""The actor that holds one shard's RoI vectors, and pairs them with each other's and with those that are sent to it."""

from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray.columns import boxes_of, vectors_of
from orl_ray.mining.exact_similarity import widen
from orl_ray.mining.matching import Pairs, match_block, pair_count
from orl_ray.node_preflight import require_store
from orl_ray.schema import shard_file
from orl_ray.storage import Store

_CHECKED_AT_ONCE = 4096


class RoiBlock(NamedTuple):
    """The RoIs of some images, those of one image together.

    Attributes:
        image_ids: (R,) int64, the image of each RoI.
        boxes: (R, 4) int32 xywh pixels.
        vectors: (R, D) unit float16.
    """

    image_ids: NDArray[np.int64]
    boxes: NDArray[np.int32]
    vectors: NDArray[np.float16]


class EdgePairs(NamedTuple):
    """The pairs of several (image, neighbour) edges, one edge after the other.

    Attributes:
        counts: (E,) int64 pairs of each edge.
        query_boxes: (P, 4) int32 boxes on the images, by falling similarity within an edge.
        neighbor_boxes: (P, 4) int32 boxes on the neighbours.
        similarities: (P,) float64 cosines, exact.
        received_bytes: size of the vectors that came from another process for it.
    """

    counts: NDArray[np.int64]
    query_boxes: NDArray[np.int32]
    neighbor_boxes: NDArray[np.int32]
    similarities: NDArray[np.float64]
    received_bytes: int


class RoiShardActor:
    """One shard's RoI vectors as float16, the only copy: products convert what they need, when they need it.

    Args:
        store: the store.
        manifests: key of the manifest of ``roi_embeddings``.
        shard: which shard.
        threads: threads of a matrix product.

    Raises:
        ValueError: a vector is not a unit vector.
    """

    def __init__(self, store: Store, manifests: dict[str, str], shard: int, threads: int) -> None:
        from threadpoolctl import threadpool_limits

        require_store(store.root)
        threadpool_limits(threads)
        tables = [
            store.read_table("roi_embeddings", record.key, shard_file(shard))
            for record in store.collection("roi_embeddings", manifests["roi_embeddings"])
        ]
        table = pa.concat_tables(tables)
        self.own = RoiBlock(table["image_id"].to_numpy(), boxes_of(table, "box"), vectors_of(table))
        self.rows = roi_rows(self.own.image_ids)
        for start in range(0, len(self.own.vectors), _CHECKED_AT_ONCE):
            widen(self.own.vectors[start : start + _CHECKED_AT_ONCE], f"RoIs of shard {shard}")

    def roi_counts(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the RoIs of (n,) images: (n,) int64, 0 for those that are not in this shard."""
        spans = [self.rows.get(image_id, (0, 0)) for image_id in image_ids.tolist()]
        return np.array([stop - start for start, stop in spans], dtype=np.int64)

    def send(self, image_ids: NDArray[np.int64]) -> RoiBlock:
        """Return the RoIs of images of this shard, for another shard's :meth:`match`."""
        spans = [self.rows[image_id] for image_id in image_ids.tolist()]
        rows = np.concatenate([np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in spans)])
        return _taken(self.own, rows)

    def match(
        self, edges: NDArray[np.int64], ratio: float, pairing: str, received: RoiBlock | None = None
    ) -> EdgePairs:
        """Pair the RoIs of images with those of their neighbours.

        Args:
            edges: (E, 2) ids of images and neighbours; an image's edges stand together.
            ratio: pairs a neighbour, as a share of the image's RoIs.
            pairing: as :func:`~orl_ray.mining.matching.match` takes it.
            received: RoIs of the images that are not in this shard, from :meth:`send` of another.

        Returns:
            The pairs, edge by edge.
        """
        nothing = _taken(self.own, np.empty(0, np.int64))
        guests = nothing if received is None else received
        rooms = ((self.own, self.rows), (guests, roi_rows(guests.image_ids)))
        found: list[Pairs] = []
        query_boxes, neighbor_boxes = [nothing.boxes], [nothing.boxes]
        for image_id, group in groupby(edges.tolist(), key=lambda edge: edge[0]):
            own_boxes, query = _rois_of(image_id, rooms)
            others = [_rois_of(neighbor, rooms) for _, neighbor in group]
            vectors = np.concatenate([vectors for _, vectors in others])
            offsets = np.cumsum([0, *(len(boxes) for boxes, _ in others)])
            matched = match_block(query, vectors, offsets, pair_count(len(query), ratio), pairing)
            found += matched
            query_boxes += [own_boxes[pairs.query_index] for pairs in matched]
            neighbor_boxes += [boxes[pairs.neighbor_index] for pairs, (boxes, _) in zip(matched, others, strict=True)]
        return EdgePairs(
            np.array([len(pairs.similarities) for pairs in found], dtype=np.int64),
            np.concatenate(query_boxes),
            np.concatenate(neighbor_boxes),
            np.concatenate([np.empty(0), *(pairs.similarities for pairs in found)]),
            guests.vectors.nbytes,
        )


def _taken(block: RoiBlock, rows: NDArray[np.int64]) -> RoiBlock:
    return RoiBlock(block.image_ids[rows], block.boxes[rows], block.vectors[rows])


def _rois_of(
    image_id: int, rooms: tuple[tuple[RoiBlock, dict[int, tuple[int, int]]], ...]
) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Return an image's boxes and vectors from where they are."""
    block, rows = next((block, rows) for block, rows in rooms if image_id in rows)
    start, stop = rows[image_id]
    return block.boxes[start:stop], block.vectors[start:stop]


def roi_rows(image_ids: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """Return the rows [start, stop) of each image in a table whose rows of one image stand together."""
    starts = np.flatnonzero(np.diff(image_ids, prepend=image_ids[:1] - 1)) if len(image_ids) else np.empty(0, int)
    stops = [*starts[1:].tolist(), len(image_ids)]
    spans = zip(starts.tolist(), stops, strict=False)
    return {int(image_ids[start]): (start, stop) for start, stop in spans}
