"""The stage ``correspondences``: pairs of RoIs, matched by one actor a shard where the vectors lie."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import schema
from orl_ray.columns import box_list_column, list_column
from orl_ray.execution import StageRun
from orl_ray.mining.pair_moves import plan_calls
from orl_ray.mining.roi_shard_actor import EdgePairs, RoiShardActor
from orl_ray.mining.shard_actors import shard_actors
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage
from orl_ray.storage import TABLE, parquet_bytes


class Matches(NamedTuple):
    """What shards found for (image, neighbour) edges, in the order of the edges; entries are lists of E arrays.

    Attributes:
        query_boxes: (n, 4) int32 each, by falling similarity.
        neighbor_boxes: (n, 4) int32 each.
        similarities: (n,) float64 each.
        bytes_moved: size of the RoI vectors that went from one process to another.
    """

    query_boxes: list[NDArray[np.int32]]
    neighbor_boxes: list[NDArray[np.int32]]
    similarities: list[NDArray[np.float64]]
    bytes_moved: int


def correspond_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Pair the RoIs of every image of a part with those of its neighbours, where their vectors lie."""
    table = context.store.read_table("neighbors", part.inputs["neighbors"])
    lists = table["neighbor_ids"].combine_chunks()
    sizes, ids = np.diff(lists.offsets.to_numpy()), table["image_id"].to_numpy()
    edges = np.stack([np.repeat(ids, sizes), lists.values.to_numpy()], axis=1)
    ranks = np.concatenate([np.empty(0, np.int64), *(np.arange(size) for size in sizes)])
    actors, mining = context.shared["actors"], context.config.mining
    counts, shards = where_rois_are(actors, np.concatenate([ids, edges.ravel()]))
    images, (rois, homes) = (
        counts[: len(ids)] > 0,
        (counts[len(ids) :].reshape(-1, 2), shards[len(ids) :].reshape(-1, 2)),
    )
    known = (rois > 0).all(axis=1)  # imported proposals may leave images without any
    matches = match_edges(actors, edges[known], rois[known], homes[known], mining.ratio_max, mining.pairing)
    columns = {
        "image_id": edges[known, 0],
        "neighbor_id": edges[known, 1],
        "rank": ranks[known],
        "rois": rois[known, 0],
        "query_boxes": matches.query_boxes,
        "neighbor_boxes": matches.neighbor_boxes,
        "similarities": matches.similarities,
    }
    files = {TABLE: parquet_bytes(correspondence_table(columns))}
    paired = np.array([len(found) > 0 for found in matches.similarities], dtype=bool)
    facts = {
        "pairs": sum(map(len, matches.similarities)),
        "bytes_moved": matches.bytes_moved,
        "neighbors": int((rois[:, 0] > 0).sum()),
        "neighbors_with_pairs": int(paired.sum()),
        "images_with_pairs": len(np.unique(edges[known][paired, 0])),
    }
    return PartOutput(files, rows=int(images.sum()), facts=facts)


def run_correspondences(run: StageRun) -> None:
    """Match with one actor a shard, which holds the shard's RoI vectors."""
    records = run.store.collection("roi_embeddings", run.plan.manifests["roi_embeddings"])
    shards = run.config.mining.shards
    size = 2 * sum(record.bytes for record in records) // shards
    with shard_actors(RoiShardActor, run, run.plan.manifests, shards, size) as actors:
        run_parts(run, correspond_part, shared={"actors": actors})


def where_rois_are(actors: Sequence[Any], image_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ask the actors for images' RoIs.

    Args:
        actors: handles of :class:`RoiShardActor`, in the order of their shards.
        image_ids: (n,) int64, in any order, any number of times.

    Returns:
        (n,) int64 RoIs of each image, 0 where no shard has any; and (n,) int64 their shard, 0 likewise.
    """
    import ray

    distinct, places = np.unique(image_ids, return_inverse=True)
    counts = np.stack(ray.get([actor.roi_counts.remote(distinct) for actor in actors]))
    return counts.sum(axis=0)[places], counts.argmax(axis=0)[places]


def match_edges(
    actors: Sequence[Any],
    edges: NDArray[np.int64],
    rois: NDArray[np.int64],
    shards: NDArray[np.int64],
    ratio: float,
    pairing: str,
) -> Matches:
    """Pair the RoIs of images with those of their neighbours; vectors go from actor to actor, and only if they must.

    Ray hands results of less than 100 KB over by way of the caller: those few are sent twice and counted once.

    Args:
        actors: handles of :class:`RoiShardActor`, in the order of their shards.
        edges: (E, 2) int64 ids of images and neighbours; an image's edges stand together.
        rois: (E, 2) int64 RoIs of each of them, at least 1.
        shards: (E, 2) int64 the shard of each of them.
        ratio: pairs a neighbour, as a share of the image's RoIs.
        pairing: as :func:`~orl_ray.mining.matching.match` takes it.

    Returns:
        The pairs. They do not depend on the shards; the bytes moved do.
    """
    import ray

    calls = plan_calls(edges, shards, rois)
    blocks = [actors[call.source].send.remote(call.moved) if call.source >= 0 else None for call in calls]
    answers = [
        actors[call.shard].match.remote(edges[call.edges], ratio, pairing, block)
        for call, block in zip(calls, blocks, strict=True)
    ]
    found: list[EdgePairs] = ray.get(answers)
    order = np.argsort(np.concatenate([np.empty(0, np.int64), *(call.edges for call in calls)]))

    def in_order(column: Callable[[EdgePairs], NDArray[Any]]) -> list[NDArray[Any]]:
        arrays = [array for pairs in found for array in np.split(column(pairs), np.cumsum(pairs.counts)[:-1])]
        return [arrays[at] for at in order]

    query_boxes = in_order(lambda pairs: pairs.query_boxes)
    neighbor_boxes = in_order(lambda pairs: pairs.neighbor_boxes)
    similarities = in_order(lambda pairs: pairs.similarities)
    return Matches(query_boxes, neighbor_boxes, similarities, sum(pairs.received_bytes for pairs in found))


def correspondence_table(columns: Mapping[str, Any]) -> pa.Table:
    """Make a table of the schema's columns by name; boxes and similarities are a row an array."""
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
    settings=("mining.ratio_max", "mining.pairing"),
    work=run_correspondences,
)
