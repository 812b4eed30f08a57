"""The stage ``scenes``: the images that later stages work on, whatever the packs look like that hold their bytes."""

from typing import Any

from orl_ray import schema
from orl_ray.execution import StageRun
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage
from orl_ray.scenes.packs import ARTIFACT as PACKED
from orl_ray.storage import TABLE, parquet_bytes


def describe_part(context: WorkerContext, _state: Any, part: PartPlan) -> PartOutput:
    """Take from a packed part what later results may depend on: the images, not where their bytes lie."""
    key = part.inputs[PACKED]
    packed = context.store.read_table(PACKED, key)
    files = {TABLE: parquet_bytes(packed.select(schema.SCENES.names).cast(schema.SCENES))}
    return PartOutput(files, rows=len(packed), facts={PACKED: key})


def run_scenes(run: StageRun) -> None:
    """Describe the missing parts."""
    run_parts(run, describe_part)


SCENES = Stage(
    name="scenes",
    title="list scenes",
    version=2,
    inputs=(Input(PACKED),),
    settings=(),
    work=run_scenes,
)
