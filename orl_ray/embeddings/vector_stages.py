"""The stages behind ``python -m orl_ray embed``: vectors of images, or of boxes from a file, to be taken elsewhere."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from orl_ray import schema
from orl_ray.columns import box_column, boxes_of, vector_column
from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.given_boxes import ARTIFACT as GIVEN_BOXES
from orl_ray.embeddings.given_boxes import part_file, write_given_boxes
from orl_ray.embeddings.on_their_way import to_device
from orl_ray.embeddings.roi_features import crops_of
from orl_ray.embeddings.stages import prepare_roi_encoder
from orl_ray.embeddings.vectors import embed_blocks
from orl_ray.execution import StageRun
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage, one_cpu
from orl_ray.scenes.decode import center_crop, resize_shorter
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import TABLE, parquet_bytes

VECTORS = "vectors"
# Artifacts that only this command makes; they hold ids of images, as those of the main job do.
ARTIFACTS = (GIVEN_BOXES, VECTORS)
KINDS = {"float16": np.float16, "float32": np.float32}


def vector_stages(boxes: str, kind: str) -> list[Stage]:
    """Return the stages that follow the scenes and the encoder.

    Args:
        boxes: a file of boxes, as :func:`~orl_ray.embeddings.given_boxes.read_boxes` takes it; "" embeds whole images.
        kind: of the vectors' numbers, a name of :data:`KINDS`.

    Raises:
        FileNotFoundError: there is no such file of boxes.
    """
    inputs = [Input("scenes"), Input("image_level", "collection")]
    sizes = ("embeddings.roi_size",) if boxes else ("embeddings.image_resize", "embeddings.image_crop")
    vectors = Stage(
        name=VECTORS,
        title="embed boxes" if boxes else "embed images",
        version=1,
        inputs=(*inputs, Input(GIVEN_BOXES, "collection")) if boxes else tuple(inputs),
        settings=("encoder.backbone", "embeddings.batch_size", *sizes),
        identity=lambda _config: {"kind": kind},
        work=partial(_run_vectors, kind),
        unit="images",
    )
    if not boxes:
        return [vectors]
    content = JsonFile.at(boxes).fingerprint()
    placed = Stage(
        name=GIVEN_BOXES,
        title="read boxes",
        version=1,
        inputs=(Input("scenes", "collection"),),
        settings=(),
        scope="collection",
        budget=one_cpu,
        unit="boxes",
        identity=lambda _config: {"boxes": content},
        work=partial(_run_given_boxes, boxes),
    )
    return [placed, vectors]


def embed_part(kind: str, context: WorkerContext, encoder: FrozenEncoder, part: PartPlan) -> PartOutput:
    """Embed the images of a part of the scenes, or the boxes in them; one decode an image."""
    rows = _Rows(context, part)
    batch_size = context.config.embeddings.batch_size
    vectors = embed_blocks(encoder, rows.crops(context, encoder, part), batch_size, KINDS[kind]).vectors
    column = vector_column(vectors)
    table = pa.table([*rows.columns(), column], schema=schema.vectors(column.type.value_type, vectors.shape[1]))
    files, facts = {TABLE: parquet_bytes(table)}, {"vectors": len(table)}
    return PartOutput(files, rows=len(rows.ids), facts=facts, environment=encoder.environment())


class _Rows:
    """The rows of a part's table, in the order in which their crops are asked for.

    Attributes:
        ids: images that have rows.
        paths: image id -> its path.
        boxes: image id -> its table of boxes; None where images are embedded whole.
    """

    def __init__(self, context: WorkerContext, part: PartPlan) -> None:
        scenes = context.store.read_table("scenes", part.inputs["scenes"], columns=["image_id", "path"])
        self.paths: dict[int, str] = dict(zip(*(column.to_pylist() for column in scenes.columns), strict=True))
        self.ids = list(self.paths)
        self.boxes: dict[int, pa.Table] | None = None
        if GIVEN_BOXES in context.manifests:
            table = context.store.read_table(GIVEN_BOXES, context.manifests[GIVEN_BOXES], part_file(part.index))
            ids, first = np.unique(table["image_id"].to_numpy(), return_index=True)
            counts = np.diff([*first, len(table)])
            self.ids = ids.tolist()
            self.boxes = {
                image_id: table.slice(start, count)
                for image_id, start, count in zip(self.ids, first.tolist(), counts.tolist(), strict=True)
            }

    def crops(self, context: WorkerContext, encoder: FrozenEncoder, part: PartPlan) -> Iterator[Tensor]:
        settings, wanted = context.config.embeddings, set(self.ids)
        max_pixels = context.config.source.max_pixels
        for image_id, image in decoded_scenes(context.store, part.inputs["scenes"], max_pixels, wanted):
            if self.boxes is None:
                crop = center_crop(resize_shorter(image, settings.image_resize), settings.image_crop)
                yield to_device(crop[None], encoder.device)
            else:
                yield crops_of((image, boxes_of(self.boxes[image_id], "box")), settings.roi_size, encoder.device)

    def columns(self) -> list[Any]:
        """Return image_id, path, box and box_row; the ids of a part rise, and so do those of its packs."""
        if self.boxes is None:
            paths = [self.paths[image_id] for image_id in self.ids]
            nulls = [pa.nulls(len(self.ids), schema.GIVEN_BOXES.field("box").type), pa.nulls(len(self.ids), pa.int64())]
            return [pa.array(self.ids, pa.int64()), pa.array(paths, pa.string()), *nulls]
        table = pa.concat_tables([schema.GIVEN_BOXES.empty_table(), *self.boxes.values()])
        ids = table["image_id"].to_pylist()
        paths = [self.paths[image_id] for image_id in ids]
        return [
            pa.array(ids, pa.int64()),
            pa.array(paths, pa.string()),
            box_column(boxes_of(table, "box")),
            table["box_row"].combine_chunks(),
        ]


def _run_vectors(kind: str, run: StageRun) -> None:
    run_parts(run, partial(embed_part, kind), prepare=prepare_roi_encoder, on_device=True)


def _run_given_boxes(boxes: str, run: StageRun) -> None:
    task = stage_task(run, write_given_boxes)
    outcome(run, task.remote(run.store, boxes, run.plan.manifests["scenes"], run.plan.key))
