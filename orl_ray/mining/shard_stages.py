"""The stages ``centroids`` and ``shards``: which shard each image belongs to."""

import time

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from orl_ray import schema
from orl_ray.columns import vectors_of
from orl_ray.config import Config
from orl_ray.environment import numeric_environment
from orl_ray.execution import StageRun
from orl_ray.mining.balanced_kmeans import Centroids, assign, fit_centroids, in_sample
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage, one_cpu
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
