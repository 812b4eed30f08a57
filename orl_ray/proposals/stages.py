"""The stages ``proposals`` (selective search, in seeded order) and ``rois`` (what the greedy filter keeps)."""

from typing import Any, cast

import numpy as np
import pyarrow as pa

from orl_ray import schema
from orl_ray.columns import box_list_column, box_lists_of, list_column
from orl_ray.execution import StageRun
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage
from orl_ray.proposals.modes import Mode
from orl_ray.proposals.ranking import Order, rank
from orl_ray.proposals.roi_filter import filter_rois
from orl_ray.proposals.selective_search import environment, propose
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.storage import TABLE, parquet_bytes


def load_kernels(_context: WorkerContext) -> None:
    """Load the compiled search, or compile it where this machine has not yet, so that no part waits for that."""
    propose(np.zeros((8, 8, 3), np.uint8), "fast")


def propose_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Propose boxes for every image of a part."""
    settings, seed = context.config.proposals, context.config.seed
    ids, boxes, levels = [], [], []
    images = decoded_scenes(context.store, part.inputs["scenes"], context.config.source.max_pixels)
    for image_id, image in images:
        regions = propose(image, cast("Mode", settings.mode), settings.max_side)
        proposals = rank(regions, seed, image_id, cast("Order", settings.order))
        ids.append(image_id)
        boxes.append(proposals.boxes)
        levels.append(proposals.levels)
    columns = [pa.array(ids, pa.int64()), box_list_column(boxes), list_column(levels, pa.int16())]
    table = pa.table(columns, schema=schema.PROPOSALS)
    facts = {"boxes": sum(map(len, boxes))}
    files = {TABLE: parquet_bytes(table)}
    return PartOutput(files, rows=len(ids), facts=facts, environment=environment())


def filter_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Filter the proposals of every image of a part."""
    scenes = context.store.read_table("scenes", part.inputs["scenes"])
    proposals = context.store.read_table("proposals", part.inputs["proposals"])
    sizes = {row["image_id"]: (row["width"], row["height"]) for row in scenes.to_pylist()}
    ids = proposals["image_id"].to_pylist()
    selections = [
        filter_rois(boxes, *sizes[image_id], context.config.rois)
        for image_id, boxes in zip(ids, box_lists_of(proposals, "boxes"), strict=True)
    ]
    index = list_column([np.asarray(selection.proposal_index, np.int32) for selection in selections], pa.int32())
    columns = [pa.array(ids, pa.int64()), box_list_column([selection.boxes for selection in selections]), index]
    table = pa.table(columns, schema=schema.ROIS)
    facts = {"rois": sum(len(selection.boxes) for selection in selections)}
    return PartOutput({TABLE: parquet_bytes(table)}, rows=len(ids), facts=facts)


def run_proposals(run: StageRun) -> None:
    """Make the missing parts of the proposals."""
    run_parts(run, propose_part, prepare=load_kernels)


def run_rois(run: StageRun) -> None:
    """Make the missing parts of the RoIs."""
    run_parts(run, filter_part)


PROPOSALS = Stage(
    name="proposals",
    title="propose regions",
    version=2,
    inputs=(Input("scenes"),),
    settings=("seed", "proposals"),
    work=run_proposals,
)

ROIS = Stage(
    name="rois",
    title="filter regions",
    version=1,
    inputs=(Input("proposals"), Input("scenes")),
    settings=("rois",),
    work=run_rois,
)
