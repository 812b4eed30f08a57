"""Ray actors that each hold one shard in memory: an image index for neighbours, RoI vectors for correspondences.

An actor reads what it needs from the store in its constructor, so it can be lost and rebuilt at any time. Its calls
change nothing, so a call that is repeated after a loss is harmless.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray.columns import boxes_of, vectors_of
from orl_ray.execution import StageRun
from orl_ray.mining.exact_search import ExactIndex, Neighbors
from orl_ray.mining.matching import Pairs, match_block
from orl_ray.node_preflight import require_store
from orl_ray.scenes.near_duplicate_stage import read_groups
from orl_ray.schema import shard_file
from orl_ray.stage_task import require_memory
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


@contextlib.contextmanager
def shard_actors(
    actor: type, run: StageRun, manifests: dict[str, str], shards: int, shard_bytes: int
) -> Iterator[list[Any]]:
    """Run one actor a shard; they are ended on leaving.

    Args:
        actor: :class:`ImageIndexActor` or :class:`RoiShardActor`.
        run: the stage's run; its CPUs are shared out as threads, its id is in the actors' names.
        manifests: keys of the manifests that the actors read.
        shards: how many.
        shard_bytes: what a shard holds in memory, declared to Ray so that a node is never given more than fits.
    """
    import ray

    memory = shard_bytes + 2**27  # beside the vectors: an idle process with faiss takes 126 MB
    require_memory(run, memory, "raise mining.shards, or take larger machines")
    remote = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0, memory=memory)(actor)
    threads = max(1, run.cpus // shards)
    name = f"{run.run_id}-{run.plan.stage.name}-shard"
    handles = [
        remote.options(scheduling_strategy="SPREAD", name=f"{name}-{shard}").remote(
            run.store, manifests, shard, threads
        )
        for shard in range(shards)
    ]
    try:
        yield handles
    finally:
        for handle in handles:
            ray.kill(handle)
