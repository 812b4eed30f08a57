"""The stages ``centroids``, ``shards``, ``neighbors`` and ``correspondences``: from vectors to RoI pairs."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load, save

from orl_ray import schema
from orl_ray.columns import box_list_column, boxes_of, list_column, vectors_of
from orl_ray.config import Config
from orl_ray.environment import numeric_environment
from orl_ray.execution import StageRun
from orl_ray.mining.balanced_kmeans import Centroids, assign, fit_centroids, in_sample
from orl_ray.mining.exact_search import merge_neighbors
from orl_ray.mining.index_actors import ImageIndexActor, RoiShardActor, roi_rows, shard_actors
from orl_ray.mining.matching import pair_count
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage, one_cpu
from orl_ray.scenes.near_duplicate_stage import ARTIFACT as GROUPS
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import TABLE, Store, parquet_bytes

CENTROIDS = "centroids.safetensors"


def fit_shards(config: Config, store: Store, manifest: str, key: str) -> None:
    """Fit the centroids on a keyed sample of the image embeddings, and write them; runs in a task."""
    started = time.monotonic()
    records = store.collection("image_embeddings", manifest)
    total = sum(record.rows for record in records)
    chosen = []
    for record in records:
        table = store.read_table("image_embeddings", record.key)
        chosen.append(vectors_of(table)[in_sample(table["image_id"].to_numpy(), total, config.seed)])
    fitted = fit_centroids(np.concatenate(chosen), config.mining.shards, config.seed)
    record = store.write_part(
        "centroids",
        key,
        0,
        {CENTROIDS: save({"centers": fitted.centers, "prices": fitted.prices})},
        rows=config.mining.shards,
        seconds=time.monotonic() - started,
        environment=numeric_environment(),
        facts={"images": total},
    )
    store.write_manifest("centroids", key, [record])


def run_centroids(run: StageRun) -> None:
    """Fit the centroids in one task."""
    task = stage_task(run, fit_shards)
    outcome(run, task.remote(run.config, run.store, run.plan.manifests["image_embeddings"], run.plan.key))


def prepare_centroids(context: WorkerContext) -> Centroids:
    """Read the centroids."""
    key = context.manifests["centroids"]
    tensors = load(context.store.read_file("centroids", key, CENTROIDS))
    return Centroids(tensors["centers"], tensors["prices"])


def assign_part(context: WorkerContext, centroids: Centroids, part: PartPlan) -> PartOutput:
    """Assign every image of a part to its shard."""
    table = context.store.read_table("image_embeddings", part.inputs["image_embeddings"])
    columns = [table["image_id"].combine_chunks(), pa.array(assign(vectors_of(table), centroids), pa.int32())]
    files = {TABLE: parquet_bytes(pa.table(columns, schema=schema.SHARDS))}
    return PartOutput(files, rows=len(table))


def run_shards(run: StageRun) -> None:
    """Assign the images of the missing parts."""
    run_parts(run, assign_part, prepare=prepare_centroids)


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


def correspond_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Pair the RoIs of every image of a part with those of its neighbours, where the neighbours' vectors lie."""
    table = context.store.read_table("neighbors", part.inputs["neighbors"])
    rois = _read_rois(context, part.inputs["roi_embeddings"])
    vectors, boxes, rows = vectors_of(rois), boxes_of(rois, "box"), roi_rows(rois["image_id"].to_numpy())
    wanted = [row for row in table.select(["image_id", "neighbor_ids"]).to_pylist() if row["image_id"] in rows]
    queries = {row["image_id"]: vectors[slice(*rows[row["image_id"]])] for row in wanted}
    matches, moved = _match_on_shards(context, wanted, queries)
    columns: dict[str, list[Any]] = {name: [] for name in schema.CORRESPONDENCES.names}
    for row in wanted:
        own = boxes[slice(*rows[row["image_id"]])]
        for rank, neighbor in enumerate(row["neighbor_ids"]):
            if (row["image_id"], neighbor) not in matches:
                continue  # it has no RoIs: imported proposals may leave images without any
            pairs, neighbor_boxes = matches[row["image_id"], neighbor]
            entry = (row["image_id"], neighbor, rank, len(own), own[pairs.query_index], neighbor_boxes)
            for name, value in zip(columns, (*entry, pairs.similarities), strict=True):
                columns[name].append(value)
    files = {TABLE: parquet_bytes(_correspondence_table(columns))}
    pairs_found = sum(map(len, columns["similarities"]))
    return PartOutput(files, rows=len(wanted), facts={"pairs": pairs_found, "bytes_moved": moved})


def run_correspondences(run: StageRun) -> None:
    """Match with one actor a shard, which holds the shard's RoI vectors."""
    records = run.store.collection("roi_embeddings", run.plan.manifests["roi_embeddings"])
    shards = run.config.mining.shards
    size = 2 * sum(record.bytes for record in records) // shards
    with shard_actors(RoiShardActor, run, run.plan.manifests, shards, size) as actors:
        run_parts(run, correspond_part, shared={"actors": actors})


def _read_rois(context: WorkerContext, key: str) -> pa.Table:
    record = context.store.record("roi_embeddings", key)
    names = sorted(record.files) if record else []
    return pa.concat_tables([context.store.read_table("roi_embeddings", key, name) for name in names])


def _match_on_shards(
    context: WorkerContext, wanted: list[dict[str, Any]], queries: dict[int, NDArray[np.float16]]
) -> tuple[dict[tuple[int, int], Any], int]:
    """Send each image's RoI vectors to the shards that hold its neighbours; return the pairs and the bytes sent."""
    import ray

    neighbors = np.unique(np.array([i for row in wanted for i in row["neighbor_ids"]], dtype=np.int64))
    actors = context.shared["actors"]
    owned = ray.get([actor.owned.remote(neighbors) for actor in actors])
    calls, moved = [], 0
    for actor, mask in zip(actors, owned, strict=True):
        here = set(neighbors[mask].tolist())
        asked = [(row["image_id"], [i for i in row["neighbor_ids"] if i in here]) for row in wanted]
        asked = [(image_id, ids) for image_id, ids in asked if ids]
        vectors = [queries[image_id] for image_id, _ in asked]
        counts = [pair_count(len(query), context.config.mining.ratio_max) for query in vectors]
        moved += sum(query.nbytes for query in vectors)
        calls.append((asked, actor.match.remote(vectors, [ids for _, ids in asked], counts)))
    matches = {}
    for asked, call in calls:
        for (image_id, ids), found in zip(asked, ray.get(call), strict=True):
            matches.update({(image_id, i): pairs for i, pairs in zip(ids, found, strict=True)})
    return matches, moved


def _correspondence_table(columns: dict[str, list[Any]]) -> pa.Table:
    arrays = [
        pa.array(columns["image_id"], pa.int64()),
        pa.array(columns["neighbor_id"], pa.int64()),
        pa.array(columns["rank"], pa.int32()),
        pa.array(columns["rois"], pa.int32()),
        box_list_column(columns["query_boxes"]),
        box_list_column(columns["neighbor_boxes"]),
        list_column(columns["similarities"], pa.float64()),
    ]
    return pa.table(arrays, schema=schema.CORRESPONDENCES)


CENTROIDS_STAGE = Stage(
    name="centroids",
    title="fit shards",
    version=1,
    inputs=(Input("image_embeddings", "collection"),),
    settings=("seed", "mining.shards"),
    scope="collection",
    budget=one_cpu,
    unit="shards",
    work=run_centroids,
)

SHARDS = Stage(
    name="shards",
    title="assign shards",
    version=1,
    inputs=(Input("image_embeddings"), Input("centroids", "collection")),
    settings=(),
    work=run_shards,
)

NEIGHBORS = Stage(
    name="neighbors",
    title="find neighbours",
    version=2,
    inputs=(Input("image_embeddings"), Input("image_embeddings", "collection"), Input(GROUPS, "collection")),
    settings=("mining.k_max", "mining.skip_near_duplicates"),
    after=("shards",),
    work=run_neighbors,
)

CORRESPONDENCES = Stage(
    name="correspondences",
    title="pair regions",
    version=1,
    inputs=(Input("neighbors"), Input("roi_embeddings"), Input("roi_embeddings", "collection")),
    settings=("mining.ratio_max",),
    work=run_correspondences,
)
