"""The actor that holds one shard's image vectors, to be searched for neighbours."""

import numpy as np
from numpy.typing import NDArray

from orl_ray.columns import vectors_of
from orl_ray.mining.exact_search import ExactIndex, Neighbors
from orl_ray.node_preflight import require_store
from orl_ray.scenes.near_duplicate_stage import read_groups
from orl_ray.storage import Store


class ImageIndexActor:
    """One shard's image vectors, searchable.

    Args:
        store: the store.
        manifests: keys of the manifests of ``image_embeddings`` and ``shards``; with that of ``near_duplicates`` an
            image has no neighbours in its own group.
        shard: which shard.
        threads: threads of a search.
    """

    def __init__(self, store: Store, manifests: dict[str, str], shard: int, threads: int) -> None:
        import faiss

        require_store(store.root)
        faiss.omp_set_num_threads(threads)
        ids, vectors = [], []
        embeddings = store.collection("image_embeddings", manifests["image_embeddings"])
        assigned = {record.index: record for record in store.collection("shards", manifests["shards"])}
        for record in embeddings:
            table = store.read_table("image_embeddings", record.key)
            mine = store.read_table("shards", assigned[record.index].key)["shard"].to_numpy() == shard
            ids.append(table["image_id"].to_numpy()[mine])
            vectors.append(vectors_of(table)[mine])
        self.groups = read_groups(store, manifests.get("near_duplicates"))
        own = np.concatenate(ids)
        self.index = ExactIndex(own, np.concatenate(vectors), self.groups.of(own))

    def search(self, queries: NDArray[np.float16], query_ids: NDArray[np.int64], k: int) -> Neighbors:
        """Search this shard exactly; see :meth:`ExactIndex.search`."""
        return self.index.search(queries, self.groups.of(query_ids), k)
