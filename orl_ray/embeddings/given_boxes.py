"""Boxes from a file, Parquet or COCO JSON, laid out part by part of the scenes.

The whole file is in the memory of one task, as numbers: some 50 bytes a box.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orl_ray import schema
from orl_ray.columns import box_column
from orl_ray.folders import file_at
from orl_ray.scenes.entries import path_id
from orl_ray.scenes.json_file import JsonFile
from orl_ray.storage import Store, parquet_bytes

ARTIFACT = "given_boxes"
_CHUNK = 65_536


class _Boxes(NamedTuple):
    """Boxes in the order of their file: (n,) int64 ids, and (n, 4) float64 xywh in pixels."""

    ids: NDArray[np.int64]
    boxes: NDArray[np.float64]


@dataclass(slots=True)
class BoxCounts:
    """What became of the boxes of a file.

    Attributes:
        boxes: those that are embedded.
        unknown: those of images that the scenes lack.
        outside: those with no pixel inside their image.
    """

    boxes: int = 0
    unknown: int = 0
    outside: int = 0


def part_file(index: int) -> str:
    """Name the file with the boxes of a part of the scenes."""
    return f"part-{index:06d}.parquet"


def write_given_boxes(store: Store, place: str, scenes: str, key: str) -> None:
    """Write the boxes of a file, a table a part of the scenes, and the manifest; runs in a task.

    A box is rounded outwards to whole pixels and cut at the edges of its image. Boxes of images that the scenes lack,
    and boxes with no pixel inside their image, are left out and counted in the record's facts.

    Args:
        store: the store.
        place: the file, as :func:`read_boxes` takes it.
        scenes: key of the scenes' manifest.
        key: key of the result.

    Raises:
        ValueError: as :func:`read_boxes`.
    """
    given, counts = read_boxes(place), BoxCounts()
    order = np.argsort(given.ids, kind="stable")  # of an image, boxes keep the order of the file
    ids, written, known = given.ids[order], {}, 0
    for record in store.collection("scenes", scenes):
        images = store.read_table("scenes", record.key, columns=["image_id", "width", "height"])
        of_part, width, height = (images[name].to_numpy() for name in images.column_names)
        first, last = np.searchsorted(ids, of_part, "left"), np.searchsorted(ids, of_part, "right")
        image = np.repeat(np.arange(len(of_part)), last - first)
        rows = order[np.concatenate([np.empty(0, np.int64), *map(np.arange, first, last)])]
        boxes, inside = within(given.boxes[rows], width[image], height[image])
        known += len(rows)
        counts.boxes += int(inside.sum())
        columns = [
            pa.array(of_part[image[inside]], pa.int64()),
            box_column(boxes[inside]),
            pa.array(rows[inside], pa.int64()),
        ]
        name = part_file(record.index)
        table = pa.table(columns, schema=schema.GIVEN_BOXES)
        written[name] = store.write_part_file(ARTIFACT, key, name, parquet_bytes(table))
    counts.unknown, counts.outside = len(ids) - known, known - counts.boxes
    facts = {"unknown": counts.unknown, "outside": counts.outside}
    part = store.write_part(ARTIFACT, key, 0, {}, rows=counts.boxes, written=written, facts=facts)
    store.write_manifest(ARTIFACT, key, [part])


def within(
    boxes: NDArray[np.float64], width: NDArray[np.int32], height: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Round boxes outwards to whole pixels, and cut them at the edges of their images.

    Args:
        boxes: (n, 4) xywh, pixels.
        width: (n,) of their images.
        height: (n,) of their images.

    Returns:
        (n, 4) int32 xywh, and (n,) bool: which of them have a pixel, the others being meaningless.
    """
    size = np.stack([width, height], axis=1).astype(np.float64)
    start = np.clip(np.floor(boxes[:, :2]), 0, size)
    end = np.clip(np.ceil(boxes[:, :2] + boxes[:, 2:]), 0, size)
    inside = np.logical_and((end > start).all(axis=1), (boxes[:, 2:] > 0).all(axis=1))
    whole = np.where(inside[:, None], np.hstack([start, end - start]), 0.0)
    return whole.astype(np.int32), inside


def read_boxes(place: str) -> _Boxes:
    """Read boxes from a file.

    Args:
        place: a path, s3:// or gs://: a COCO JSON, whose annotations are read; or a ``.parquet`` with a column ``box``
            of four numbers, x, y, width and height in pixels of the upright image, and a column ``image_id`` (integer)
            or ``path`` (text), as ids of images in folders are made of their paths.

    Raises:
        ValueError: there is no such file, it is none of these, or a box is not four finite numbers.
    """
    chunks = list(_parquet_boxes(place) if place.endswith(".parquet") else _coco_boxes(place))
    ids = np.concatenate([np.empty(0, np.int64), *(chunk.ids for chunk in chunks)])
    boxes = np.concatenate([np.empty((0, 4)), *(chunk.boxes for chunk in chunks)])
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(bad):
        raise ValueError(f"{place}: row {bad[0]} has a box that is not four finite numbers")
    return _Boxes(ids, boxes)


def _parquet_boxes(place: str) -> Iterator[_Boxes]:
    folder, name = file_at(place)
    try:
        stream = folder.open(name)
    except FileNotFoundError as error:
        raise ValueError(f"no file at {place}") from error
    with stream:
        file = pq.ParquetFile(stream)
        names = file.schema_arrow.names
        by = next((column for column in ("image_id", "path") if column in names), None)
        if by is None or "box" not in names:
            raise ValueError(f"{place} needs a column box and a column image_id or path; it has {', '.join(names)}")
        for batch in file.iter_batches(_CHUNK, columns=[by, "box"]):
            keys = batch.column(by).to_pylist()
            ids = [path_id(key) for key in keys] if by == "path" else keys
            yield _chunk(place, ids, batch.column("box").to_pylist())


def _coco_boxes(place: str) -> Iterator[_Boxes]:
    annotations = JsonFile.at(place).lists("annotations")
    while rows := [annotation for _, _, annotation in islice(annotations, _CHUNK)]:
        if any(not isinstance(row, dict) or not {"image_id", "bbox"} <= row.keys() for row in rows):
            raise ValueError(f"{place}: an annotation has no image_id or no bbox")
        yield _chunk(place, [row["image_id"] for row in rows], [row["bbox"] for row in rows])


def _chunk(place: str, ids: list[Any], boxes: list[Any]) -> _Boxes:
    try:
        numbers = np.array(boxes, np.float64)
        keys = np.array(ids)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: a box is not four numbers: {error}") from error
    if numbers.shape != (len(boxes), 4) or keys.dtype.kind not in "iu":
        raise ValueError(f"{place}: every row needs an integer image_id, or a path, and a box of four numbers")
    return _Boxes(keys.astype(np.int64), numbers)
