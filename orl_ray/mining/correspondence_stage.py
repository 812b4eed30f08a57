"""The stage ``correspondences``: pairs of RoIs, matched by one actor a shard where the neighbours' vectors lie."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import schema
from orl_ray.columns import box_list_column, boxes_of, list_column, vectors_of
from orl_ray.execution import StageRun
from orl_ray.mining.matching import pair_count
from orl_ray.mining.roi_shard_actor import RoiShardActor, roi_rows
from orl_ray.mining.shard_actors import shard_actors
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage
from orl_ray.storage import TABLE, Store, parquet_bytes


def correspond_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Pair the RoIs of every image of a part with those of its neighbours, where the neighbours' vectors lie."""
    table = context.store.read_table("neighbors", part.inputs["neighbors"])
    rois = read_rois(context.store, part.inputs["roi_embeddings"])
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
    files = {TABLE: parquet_bytes(correspondence_table(columns))}
    pairs_found = sum(map(len, columns["similarities"]))
    return PartOutput(files, rows=len(wanted), facts={"pairs": pairs_found, "bytes_moved": moved})


def run_correspondences(run: StageRun) -> None:
    """Match with one actor a shard, which holds the shard's RoI vectors."""
    records = run.store.collection("roi_embeddings", run.plan.manifests["roi_embeddings"])
    shards = run.config.mining.shards
    size = 2 * sum(record.bytes for record in records) // shards
    with shard_actors(RoiShardActor, run, run.plan.manifests, shards, size) as actors:
        run_parts(run, correspond_part, shared={"actors": actors})


def read_rois(store: Store, key: str) -> pa.Table:
    """Read the RoI embeddings of a part, those of one shard after another."""
    record = store.record("roi_embeddings", key)
    names = sorted(record.files) if record else []
    return pa.concat_tables([store.read_table("roi_embeddings", key, name) for name in names])


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


def correspondence_table(columns: dict[str, list[Any]]) -> pa.Table:
    """Make a table of columns by name, the boxes of each row as an array."""
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


CORRESPONDENCES = Stage(
    name="correspondences",
    title="pair regions",
    version=1,
    inputs=(Input("neighbors"), Input("roi_embeddings"), Input("roi_embeddings", "collection")),
    settings=("mining.ratio_max",),
    work=run_correspondences,
)
