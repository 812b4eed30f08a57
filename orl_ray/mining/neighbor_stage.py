"""The stage ``neighbors``: the nearest images of every image, found by one index actor a shard."""

import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import draws, schema
from orl_ray.columns import list_column, vectors_of
from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.mining.exact_search import Neighbors, check_gpu_candidates, merge_neighbors
from orl_ray.mining.image_index_actor import ImageIndexActor, IndexChoice, index_bytes
from orl_ray.mining.shard_actors import shard_actors
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage
from orl_ray.scenes.near_duplicate_stage import ARTIFACT as GROUPS
from orl_ray.settings import Value
from orl_ray.storage import TABLE, PartRecord, Store, parquet_bytes

# Recall is measured on this many queries of this many parts: each of these parts is one pass over every shard.
_RECALL_PARTS, _RECALL_QUERIES = 16, 64


def search_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Find the neighbours of every image of a part, in all shards."""
    import ray

    table = context.store.read_table("image_embeddings", part.inputs["image_embeddings"])
    ids, k = table["image_id"].to_numpy(), context.config.mining.k_max
    vectors, actors = vectors_of(table), context.shared["actors"]
    query = ray.put(vectors)
    found = merge_neighbors(ray.get([actor.search.remote(query, ids, k) for actor in actors]), k)
    checked = recall_rows(context, part, ids)
    facts = {}
    if checked.size:
        some = ray.put(vectors[checked])
        exact = ray.get([actor.search_exactly.remote(some, ids[checked], k) for actor in actors])
        facts = recall_facts(Neighbors(found.ids[checked], found.similarities[checked]), merge_neighbors(exact, k))
    known = found.ids >= 0  # a small collection may hold fewer than k_max others
    columns = [
        table["image_id"].combine_chunks(),
        list_column([row[mask] for row, mask in zip(found.ids, known, strict=True)], pa.int64()),
        list_column([row[mask] for row, mask in zip(found.similarities, known, strict=True)], pa.float64()),
    ]
    files = {TABLE: parquet_bytes(pa.table(columns, schema=schema.NEIGHBORS))}
    return PartOutput(files, rows=len(table), facts=facts)


def recall_rows(context: WorkerContext, part: PartPlan, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw the queries of a part that an approximate index is checked on.

    Args:
        context: the worker's.
        part: the part.
        ids: (n,) int64 of its images.

    Returns:
        (m,) int64 rows, rising; none where the index is exact, and of most parts of a large collection.
    """
    if not is_approximate(context.config):
        return np.empty(0, np.int64)
    key = draws.stream(context.config.seed, "neighbors", "recall")
    parts = len(context.store.collection("image_embeddings", context.manifests["image_embeddings"]))
    if draws.uniform(key, np.array([part.index]), 1)[0, 0] * parts >= _RECALL_PARTS:
        return np.empty(0, np.int64)
    drawn = np.argsort(draws.uniform(key, ids, 2)[:, 1], kind="stable")
    return np.sort(drawn[:_RECALL_QUERIES])


def recall_facts(found: Neighbors, exact: Neighbors) -> dict[str, int]:
    """Count how many of the exact neighbours were found, for the record of a part.

    Args:
        found: (q, k) neighbours that an approximate index found.
        exact: (q, k) neighbours of the same queries.

    Returns:
        ``recall_found`` of ``recall_wanted``.
    """
    wanted = np.isfinite(exact.similarities)
    same = (exact.ids[:, :, None] == found.ids[:, None, :]) & np.isfinite(found.similarities)[:, None, :]
    return {"recall_found": int((same.any(axis=2) & wanted).sum()), "recall_wanted": int(wanted.sum())}


def recall(records: Sequence[PartRecord]) -> float | None:
    """Return the share of the exact neighbours that a search found, None where it was exact or nothing was checked."""
    wanted = sum(record.facts.get("recall_wanted", 0) for record in records)
    return sum(record.facts.get("recall_found", 0) for record in records) / wanted if wanted else None


def is_approximate(config: Config) -> bool:
    """Tell whether neighbours may be missed, and depend on the shards."""
    return config.mining.index != "flat"


def index_identity(config: Config) -> dict[str, Value]:
    """Name what else an approximate index depends on: the draw that it is trained on."""
    return {"seed": config.seed} if is_approximate(config) else {}


def index_manifests(config: Config, manifests: dict[str, str]) -> dict[str, str]:
    """Return the manifests that index actors read: without near-duplicates where these may be neighbours."""
    return {name: key for name, key in manifests.items() if name != GROUPS or config.mining.skip_near_duplicates}


def check_size(config: Config, store: Store, manifests: dict[str, str]) -> None:
    """Check that every image can have ``mining.k`` neighbours.

    Raises:
        ValueError: the collection is too small, or nearly all of it is one group of near-duplicates.
    """
    images = sum(record.rows for record in store.collection("image_embeddings", manifests["image_embeddings"]))
    groups = index_manifests(config, manifests).get(GROUPS)
    largest = max([1, *(record.facts["largest"] for record in (store.collection(GROUPS, groups) if groups else ()))])
    if images - 1 < config.mining.k:
        raise ValueError(f"mining.k is {config.mining.k}, but there are only {images} images: lower it")
    if images - largest < config.mining.k:
        raise ValueError(
            f"mining.k is {config.mining.k}, but {largest} of the {images} images are near-duplicates of each other: "
            "lower it or near_duplicates.max_distance, or set mining.skip_near_duplicates=false"
        )


def _share(actors: int, gpus: int) -> float:
    """Share GPUs out equally, in Ray's steps of 1/10,000: rounded up, the last actor would never fit."""
    return math.floor(10_000 / -(-actors // gpus)) / 10_000


def gpu_share(config: Config) -> float:
    """Tell which share of a GPU each index actor takes: none unless faiss-gpu is installed and GPUs are to be used.

    Raises:
        ValueError: more neighbours are wanted than a GPU finds.
    """
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if is_approximate(config) or not (config.execution.use_gpu and gpus and _has_faiss_gpu()):
        return 0.0
    check_gpu_candidates(config.mining.k_max)
    return _share(config.mining.shards, gpus)


def _has_faiss_gpu() -> bool:
    """Look for the package, as the driver should not load faiss."""
    try:
        version("faiss-gpu")
    except PackageNotFoundError:
        return False
    return True


def run_neighbors(run: StageRun) -> None:
    """Search with one index actor a shard.

    Raises:
        ValueError: as :func:`check_size` and :func:`gpu_share`.
    """
    check_size(run.config, run.store, run.plan.manifests)
    mining, gpus = run.config.mining, gpu_share(run.config)
    records = run.store.collection("image_embeddings", run.plan.manifests["image_embeddings"])
    manifests = index_manifests(run.config, run.plan.manifests)
    choice = IndexChoice(mining.index, mining.index_effort, run.config.seed, gpus > 0)
    length = run.store.read_table("image_embeddings", records[0].key).schema.field("vector").type.list_size
    size = index_bytes(choice, -(-sum(record.rows for record in records) // mining.shards), length)
    with shard_actors(ImageIndexActor, run, manifests, mining.shards, size, choice, gpus=gpus) as actors:
        run_parts(run, search_part, shared={"actors": actors})


NEIGHBORS = Stage(
    name="neighbors",
    title="find neighbours",
    version=2,
    inputs=(
        Input("image_embeddings"),
        Input("image_embeddings", "collection"),
        Input(GROUPS, "collection"),
        Input("shards", "collection", is_approximate),
    ),
    settings=("mining.k_max", "mining.skip_near_duplicates", "mining.index", "mining.index_effort"),
    identity=index_identity,
    work=run_neighbors,
)
