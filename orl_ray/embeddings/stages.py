"""The stages ``image_embeddings`` (an image, a vector) and ``roi_embeddings`` (a RoI, a vector; laid out by shard)."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from torch import Tensor

from orl_ray import schema
from orl_ray.columns import box_column, box_lists_of, vector_column
from orl_ray.config import Embeddings
from orl_ray.embeddings.encoder import (
    FrozenEncoder,
    frozen_backbone,
    frozen_image_encoder,
    image_feature,
    load_weights,
)
from orl_ray.embeddings.on_their_way import to_device
from orl_ray.embeddings.roi_features import Scene, embed_aligned, embed_crops
from orl_ray.embeddings.vectors import Embedded, embed_blocks
from orl_ray.execution import StageRun
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage
from orl_ray.scenes.decode import center_crop, resize_shorter
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.storage import TABLE, ipc_bytes, parquet_bytes


def prepare_image_encoder(context: WorkerContext) -> FrozenEncoder:
    """Load the encoder that images are compared by."""
    weights = load_weights(context.store, "image_level", context.manifests["image_level"])
    return frozen_image_encoder(context.config, weights)


def prepare_roi_encoder(context: WorkerContext) -> FrozenEncoder:
    """Load the backbone that RoIs are compared by (specification 2d: pooled backbone features, no projector)."""
    weights = load_weights(context.store, "image_level", context.manifests["image_level"])
    return frozen_backbone(context.config, weights)


def embed_images(context: WorkerContext, encoder: FrozenEncoder, part: PartPlan) -> PartOutput:
    """Embed every image of a part, by rising id."""
    settings = context.config.embeddings
    ids: list[int] = []

    def crops() -> Iterator[Tensor]:
        max_pixels = context.config.source.max_pixels
        for image_id, image in decoded_scenes(context.store, part.inputs["scenes"], max_pixels):
            ids.append(image_id)
            crop = center_crop(resize_shorter(image, settings.image_resize), settings.image_crop)
            yield to_device(crop[None], encoder.device)

    embedded = embed_blocks(encoder, crops(), settings.batch_size)
    table_schema = schema.image_embeddings(embedded.vectors.shape[1])
    table = pa.table([pa.array(ids, pa.int64()), vector_column(embedded.vectors)], schema=table_schema)
    facts = {"feature": image_feature(encoder), **_cost(embedded)}
    return PartOutput({TABLE: parquet_bytes(table)}, rows=len(ids), facts=facts, environment=encoder.environment())


def embed_rois(context: WorkerContext, backbone: FrozenEncoder, part: PartPlan) -> PartOutput:
    """Embed every RoI of a part once; one decode an image. Writes one file for each shard."""
    rois, shards = (context.store.read_table(name, part.inputs[name]) for name in ("rois", "shards"))
    boxes_by_id = dict(zip(rois["image_id"].to_pylist(), box_lists_of(rois, "boxes"), strict=True))
    shard_by_id = dict(zip(shards["image_id"].to_pylist(), shards["shard"].to_pylist(), strict=True))
    wanted = boxes_by_id.keys() & shard_by_id.keys()
    ids: list[int] = []

    def scenes() -> Iterator[Scene]:
        max_pixels = context.config.source.max_pixels
        for image_id, image in decoded_scenes(context.store, part.inputs["scenes"], max_pixels, wanted):
            ids.append(image_id)
            yield image, boxes_by_id[image_id]

    embedded = _embed_by_mode(context.config.embeddings, backbone, scenes())
    counts = [len(boxes_by_id[image_id]) for image_id in ids]
    boxes = np.concatenate([np.empty((0, 4), np.int32), *(boxes_by_id[image_id] for image_id in ids)])
    row_ids, row_shards = np.repeat(ids, counts), np.repeat([shard_by_id[image_id] for image_id in ids], counts)
    columns = [pa.array(row_ids, pa.int64()), box_column(boxes), vector_column(embedded.vectors)]
    table = pa.table(columns, schema=schema.roi_embeddings(embedded.vectors.shape[1]))
    files = {
        schema.shard_file(shard): ipc_bytes(table.filter(pa.array(row_shards == shard)))
        for shard in range(context.config.mining.shards)
    }
    facts = {"rois": len(boxes), **_cost(embedded)}
    return PartOutput(files, rows=len(ids), facts=facts, environment=backbone.environment())


def _embed_by_mode(settings: Embeddings, backbone: FrozenEncoder, scenes: Iterator[Scene]) -> Embedded:
    if settings.roi_mode == "align":
        return embed_aligned(backbone, scenes, round(settings.align_scale * settings.roi_size))
    return embed_crops(backbone, scenes, settings.roi_size, settings.batch_size)


def _cost(embedded: Embedded) -> dict[str, int]:
    return {"forwards": embedded.forwards, "padding": embedded.padding}


def run_image_embeddings(run: StageRun) -> None:
    """Embed the images of the missing parts."""
    run_parts(run, embed_images, prepare=prepare_image_encoder, on_device=True)


def run_roi_embeddings(run: StageRun) -> None:
    """Embed the RoIs of the missing parts."""
    run_parts(run, embed_rois, prepare=prepare_roi_encoder, on_device=True)


IMAGE_EMBEDDINGS = Stage(
    name="image_embeddings",
    title="embed images",
    version=1,
    inputs=(Input("scenes"), Input("image_level", "collection")),
    settings=(
        "encoder",
        "embeddings.image_resize",
        "embeddings.image_crop",
        "embeddings.batch_size",
        "mining.image_feature",
    ),
    work=run_image_embeddings,
)

ROI_EMBEDDINGS = Stage(
    name="roi_embeddings",
    title="embed regions",
    version=1,
    inputs=(Input("scenes"), Input("rois"), Input("shards"), Input("image_level", "collection")),
    settings=(
        "encoder.backbone",
        "embeddings.roi_size",
        "embeddings.batch_size",
        "embeddings.roi_mode",
        "embeddings.align_scale",
        "mining.shards",
    ),
    work=run_roi_embeddings,
)
