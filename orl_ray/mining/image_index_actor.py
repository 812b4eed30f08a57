"""The actor that holds one shard's image vectors, to be searched for neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray.columns import vectors_of
from orl_ray.mining.approximate_search import TRAINED_ON_A_LIST, ApproximateIndex
from orl_ray.mining.exact_search import ExactIndex, Neighbors
from orl_ray.mining.shard_vectors import BLOCK_ROWS, ShardVectors, shard_vectors
from orl_ray.node_preflight import require_store
from orl_ray.scenes.near_duplicate_stage import read_groups
from orl_ray.storage import Store, StoreError


class IndexChoice(NamedTuple):
    """Which index an actor builds.

    Attributes:
        kind: ``flat``, or a kind of :class:`~orl_ray.mining.approximate_search.ApproximateIndex`.
        effort: of an approximate index.
        seed: the run's seed.
        on_gpu: whether a flat index searches on a GPU.
    """

    kind: str = "flat"
    effort: int = 1
    seed: int = 0
    on_gpu: bool = False


class ImageIndexActor:
    """One shard's image vectors, searchable.

    Args:
        store: the store.
        manifests: keys of the manifests of ``image_embeddings`` and ``shards``; with that of ``near_duplicates`` an
            image has no neighbours in its own group.
        shard: which shard.
        threads: threads of a search.
        choice: which index.
    """

    def __init__(
        self,
        store: Store,
        manifests: dict[str, str],
        shard: int,
        threads: int,
        choice: IndexChoice = IndexChoice(),  # noqa: B008 -- it cannot be changed
    ) -> None:
        import faiss

        pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pool keeps what parts took: tens of megabytes
        require_store(store.root)
        faiss.omp_set_num_threads(threads)
        self.groups = read_groups(store, manifests.get("near_duplicates"))
        held = self._read(store, manifests, shard, choice.kind)
        self.index: ExactIndex | ApproximateIndex
        if choice.kind == "flat":
            self.index = ExactIndex(held, on_gpu=choice.on_gpu)
        else:
            self.index = ApproximateIndex(held, choice.kind, choice.seed, choice.effort)

    def search(self, queries: NDArray[np.float16], query_ids: NDArray[np.int64], k: int) -> Neighbors:
        """Search this shard; see :meth:`ExactIndex.search` and :meth:`ApproximateIndex.search`."""
        return self.index.search(queries, self.groups.of(query_ids), k)

    def search_exactly(self, queries: NDArray[np.float16], query_ids: NDArray[np.int64], k: int) -> Neighbors:
        """Search this shard exactly, whatever its index."""
        exactly = self.index.search_exactly if isinstance(self.index, ApproximateIndex) else self.index.search
        return exactly(queries, self.groups.of(query_ids), k)

    def _read(self, store: Store, manifests: dict[str, str], shard: int, kind: str) -> ShardVectors:
        """Read the ids of the shard, then its vectors, part by part: there is room for all of them before they come."""
        assigned = {record.index: record for record in store.collection("shards", manifests["shards"])}
        embeddings = store.collection("image_embeddings", manifests["image_embeddings"])
        own = [_own_ids(store, assigned[record.index].key, shard) for record in embeddings]
        ids = np.concatenate([np.empty(0, np.int64), *own])

        def parts() -> Iterator[NDArray[np.float16]]:
            for record, wanted in zip(embeddings, own, strict=True):
                if len(wanted):
                    table = store.read_table("image_embeddings", record.key)
                    image_ids = table["image_id"].to_numpy()
                    rows = np.minimum(np.searchsorted(image_ids, wanted), len(image_ids) - 1)
                    if (image_ids[rows] != wanted).any():
                        raise StoreError(f"image_embeddings {record.key} lacks images that have a shard")
                    yield vectors_of(table)[rows]

        first = store.read_table("image_embeddings", embeddings[0].key)
        length = first.schema.field("vector").type.list_size
        groups = self.groups.of(ids)
        return shard_vectors(ids, parts(), length, groups, narrow=kind != "flat", mapped=kind == "pq")


def index_bytes(choice: IndexChoice, images: int, length: int) -> int:
    """Tell how much memory an actor's shard takes, beside an idle actor: what is declared to Ray.

    Args:
        choice: which index.
        images: images of the shard.
        length: numbers of a vector.

    Returns:
        Bytes, with room for ids, buffers and an uneven shard; for ``flat`` as measured by ``python -m
        benchmarks.index``, for the others reckoned, with what an index is trained on.
    """
    vector = {"flat": 4 * length, "ivf": 4 * length + 16, "hnsw": 4 * length + 300, "pq": length // 4 + 16}[choice.kind]
    training = 6 * TRAINED_ON_A_LIST * min(4 * images**0.5, images / TRAINED_ON_A_LIST) + 12 * BLOCK_ROWS
    trained = training * length if choice.kind in ("ivf", "pq") else 0
    return int(1.3 * images * (vector + 40) + trained) + 2**26


def _own_ids(store: Store, key: str, shard: int) -> NDArray[np.int64]:
    table = store.read_table("shards", key)
    ids: NDArray[np.int64] = table["image_id"].to_numpy()[table["shard"].to_numpy() == shard]
    return ids
