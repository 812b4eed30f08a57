"""The actor that holds one shard's RoI vectors, to be matched with RoIs of images of any shard."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray.columns import boxes_of, vectors_of
from orl_ray.mining.matching import Pairs, match_block
from orl_ray.node_preflight import require_store
from orl_ray.schema import shard_file
from orl_ray.storage import Store


class RoiShardActor:
    """One shard's RoI vectors, to be matched with RoIs of images of any shard.

    Args:
        store: the store.
        manifests: key of the manifest of ``roi_embeddings``.
        shard: which shard.
        threads: threads of a matrix product.
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
        self.vectors, self.boxes = vectors_of(table), boxes_of(table, "box")
        self.rows = roi_rows(table["image_id"].to_numpy())

    def owned(self, image_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which images have their RoIs here: (n,) bool."""
        return np.array([int(image_id) in self.rows for image_id in image_ids], dtype=bool)

    def match(
        self, queries: Sequence[NDArray[np.float16]], neighbors: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> list[list[tuple[Pairs, NDArray[np.int32]]]]:
        """Pair the RoIs of several images with those of their neighbours in this shard.

        Args:
            queries: one (B, D) float16 array of RoI vectors an image.
            neighbors: for each image, ids of neighbours that this shard holds.
            counts: for each image, pairs a neighbour.

        Returns:
            For each image and neighbour, the pairs and the (n, 4) boxes of the neighbour's RoIs in them.
        """
        matched = []
        for query, ids, count in zip(queries, neighbors, counts, strict=True):
            spans = [self.rows[image_id] for image_id in ids]
            vectors = np.concatenate([self.vectors[start:stop] for start, stop in spans])
            offsets = np.cumsum([0, *(stop - start for start, stop in spans)])
            found = match_block(query, vectors, offsets, count)
            boxes = [self.boxes[start:stop] for start, stop in spans]
            matched.append([(pairs, own[pairs.neighbor_index]) for pairs, own in zip(found, boxes, strict=True)])
        return matched


def roi_rows(image_ids: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """Return the rows [start, stop) of each image in a table whose rows of one image stand together."""
    starts = np.flatnonzero(np.diff(image_ids, prepend=image_ids[:1] - 1)) if len(image_ids) else np.empty(0, int)
    stops = [*starts[1:].tolist(), len(image_ids)]
    spans = zip(starts.tolist(), stops, strict=False)
    return {int(image_ids[start]): (start, stop) for start, stop in spans}
