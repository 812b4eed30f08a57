"""The stage ``neighbors``: the nearest images of every image, found by one index actor a shard."""

from typing import Any

import pyarrow as pa

from orl_ray import schema
from orl_ray.columns import list_column, vectors_of
from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.mining.exact_search import merge_neighbors
from orl_ray.mining.image_index_actor import ImageIndexActor
from orl_ray.mining.shard_actors import shard_actors
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage
from orl_ray.scenes.near_duplicate_stage import ARTIFACT as GROUPS
from orl_ray.storage import TABLE, Store, parquet_bytes


def search_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Find the neighbours of every image of a part, in all shards."""
    import ray

    table = context.store.read_table("image_embeddings", part.inputs["image_embeddings"])
    ids, k = table["image_id"].to_numpy(), context.config.mining.k_max
    query = ray.put(vectors_of(table))
    found = merge_neighbors(ray.get([actor.search.remote(query, ids, k) for actor in context.shared["actors"]]), k)
    known = found.ids >= 0  # a small collection may hold fewer than k_max others
    columns = [
        table["image_id"].combine_chunks(),
        list_column([row[mask] for row, mask in zip(found.ids, known, strict=True)], pa.int64()),
        list_column([row[mask] for row, mask in zip(found.similarities, known, strict=True)], pa.float64()),
    ]
    files = {TABLE: parquet_bytes(pa.table(columns, schema=schema.NEIGHBORS))}
    return PartOutput(files, rows=len(table))


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


def run_neighbors(run: StageRun) -> None:
    """Search with one index actor a shard.

    Raises:
        ValueError: as :func:`check_size`.
    """
    check_size(run.config, run.store, run.plan.manifests)
    records = run.store.collection("image_embeddings", run.plan.manifests["image_embeddings"])
    manifests, shards = index_manifests(run.config, run.plan.manifests), run.config.mining.shards
    size = 3 * sum(record.bytes for record in records) // shards  # float16 and faiss's float32 copy
    with shard_actors(ImageIndexActor, run, manifests, shards, size) as actors:
        run_parts(run, search_part, shared={"actors": actors})


NEIGHBORS = Stage(
    name="neighbors",
    title="find neighbours",
    version=2,
    inputs=(Input("image_embeddings"), Input("image_embeddings", "collection"), Input(GROUPS, "collection")),
    settings=("mining.k_max", "mining.skip_near_duplicates"),
    after=("shards",),
    work=run_neighbors,
)
