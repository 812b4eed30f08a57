"""The actor that holds one shard's RoIs, coded, to be searched for those that are near to RoIs of any shard."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load

from orl_ray.columns import boxes_of, vectors_of
from orl_ray.mining.global_codebook import Codebook, Probes
from orl_ray.mining.global_search import Found, RoiIndex
from orl_ray.node_preflight import require_store
from orl_ray.scenes.near_duplicate_stage import ARTIFACT as GROUPS
from orl_ray.scenes.near_duplicate_stage import read_groups
from orl_ray.schema import shard_file
from orl_ray.storage import Store

ARTIFACT = "roi_codebook"
CODEBOOK = "codebook.safetensors"


def read_codebook(store: Store, manifest: str) -> Codebook | None:
    """Read the codebook; None where the collection is so small that it is scanned exactly.

    Raises:
        StoreError: it is not there or changed since it was written.
    """
    record = store.collection(ARTIFACT, manifest)[0]
    if not record.rows:
        return None
    tensors = load(store.read_file(ARTIFACT, record.key, CODEBOOK))
    return Codebook(tensors["centers"], tensors["codewords"])


def by_image(table: pa.Table) -> pa.Table:
    """Order RoI embeddings by their images' ids; the RoIs of an image keep their order."""
    ids = table["image_id"].to_numpy()
    return table.take(np.argsort(ids, kind="stable")) if (np.diff(ids) < 0).any() else table


class RoiSearchActor:
    """One shard's RoIs, searchable.

    Args:
        store: the store.
        manifests: keys of the manifests of ``roi_embeddings`` and ``roi_codebook``; with that of ``near_duplicates`` no
            RoI is found for one of an image of its own group, else for none of its own image.
        shard: which shard.
        threads: threads of a search.
    """

    def __init__(self, store: Store, manifests: dict[str, str], shard: int, threads: int) -> None:
        from threadpoolctl import threadpool_limits

        require_store(store.root)
        threadpool_limits(1)  # queries are shared out among threads, not their products
        self.threads = threads
        tables = [
            store.read_table("roi_embeddings", record.key, shard_file(shard))
            for record in store.collection("roi_embeddings", manifests["roi_embeddings"])
        ]
        table = by_image(pa.concat_tables(tables))
        del tables  # a second copy, where the table had to be put in order
        self.groups = read_groups(store, manifests.get(GROUPS))
        ids = table["image_id"].to_numpy()
        codebook = read_codebook(store, manifests[ARTIFACT])
        self.index = RoiIndex(vectors_of(table), ids, boxes_of(table, "box"), self.groups.of(ids), codebook)

    def candidates(
        self, queries: NDArray[np.float16], image_ids: NDArray[np.int64], probes: Probes, count: int
    ) -> Found:
        """Find candidates for RoIs of some images; see :meth:`RoiIndex.candidates`."""
        return self.index.candidates(queries, self.groups.of(image_ids), probes, count, self.threads)

    def scan(self, queries: NDArray[np.float16], image_ids: NDArray[np.int64], count: int) -> Found:
        """Find the most similar RoIs of the shard exactly; see :meth:`RoiIndex.scan`."""
        return self.index.scan(queries, self.groups.of(image_ids), count)
