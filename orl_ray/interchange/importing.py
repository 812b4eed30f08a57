"""Import the reference's JSON files: parts of our artifacts, each for one part of the scenes.

What is imported is no stage's result: no inputs of ours lead to it, so its keys are made of the files' content, and a
run uses it by a pin (``freeze``, :mod:`orl_ray.pins`). Boxes are checked against the sizes of the images, as files of
the reference align images by position alone: boxes of another image mostly do not fit.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orl_ray import schema
from orl_ray.columns import box_list_column, list_column, unknown_column
from orl_ray.interchange.reading import (
    Boxes,
    ImagePairs,
    NeighborPairs,
    declared,
    read_correspondences,
    read_neighbors,
    read_proposals,
)
from orl_ray.interchange.regrouping import PlacedRow, Tables, regroup
from orl_ray.interchange.scene_index import SceneIndex, read_scene_index
from orl_ray.pins import BESIDE, HOLDS, IMPORT, MADE_FOR
from orl_ray.pipeline import collection_hash
from orl_ray.progress import StageProgress
from orl_ray.scenes.json_file import JsonFile
from orl_ray.storage import TABLE, PartRecord, Store, canonical_digest, parquet_bytes

# Raised whenever the same files give other parts.
_VERSION = 1
# What a file of correspondences declares of the filter that made its RoIs.
_ROI_INFO = ("bbox_min_size", "bbox_max_aspect_ratio", "bbox_max_iou", "intra_bbox_num")
_NAMED = 5
# What a row's Python objects take beside their numbers, bytes.
_OBJECT_BYTES = 200


@dataclass(slots=True)
class Imported:
    """What an import did.

    Attributes:
        records: artifact -> its parts.
        keys: artifact -> key of its manifest.
        images: images that were taken over.
        unknown: images of the files that the scenes lack; left out.
        repeated: rows of an image that came before; left out, as the listing of a source does.
        neighbors_dropped: neighbours that the scenes lack, or that are the image itself; left out of their lists.
        without_boxes: images without a proposal, which are in quarantine.
    """

    records: dict[str, list[PartRecord]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    images: int = 0
    unknown: int = 0
    repeated: int = 0
    neighbors_dropped: int = 0
    without_boxes: int = 0

    def content_hash(self, artifact: str) -> str:
        """Return the hash by which ``freeze`` finds an artifact."""
        return collection_hash(self.records[artifact])


def import_proposals(
    store: Store,
    scenes: Sequence[PartRecord],
    files: Sequence[JsonFile],
    orders: Sequence[JsonFile],
    progress: StageProgress,
) -> Imported:
    """Import files of proposals as the artifact ``proposals``.

    Args:
        store: the store.
        scenes: all parts of the scenes.
        files: as :func:`~orl_ray.interchange.reading.read_proposals` takes them.
        orders: as there.
        progress: told of every image.

    Raises:
        ValueError: as ``read_proposals``; the files lack images of the scenes, or hold boxes that leave their images.
        StoreError: the scenes cannot be read.
    """
    run = _Import(store, scenes, {"files": _hashes(files), "orders": _hashes(orders)}, {}, progress)

    def rows() -> Iterator[PlacedRow]:
        for image_id, boxes in read_proposals(files, orders):
            at = run.take(image_id)
            if at >= 0:
                run.check(image_id, boxes, run.index.sizes[at])
                yield run.placed(at, (image_id, boxes), boxes.nbytes)

    return run.write(rows(), ("proposals",), _proposal_table)


def import_neighbors(store: Store, scenes: Sequence[PartRecord], file: JsonFile, progress: StageProgress) -> Imported:
    """Import a k-NN file as the artifact ``neighbors``; arguments and errors as :func:`import_proposals`.

    Raises:
        ValueError: also where the file does not declare ``knn_image_num``.
    """
    holds = {"k": _declared(file, "knn_image_num")}
    run = _Import(store, scenes, {"files": _hashes([file])}, holds, progress)

    def rows() -> Iterator[PlacedRow]:
        for image_id, neighbors in read_neighbors(file):
            at = run.take(image_id)
            if at >= 0:
                known = neighbors[run.known_neighbors(image_id, neighbors) >= 0]
                yield run.placed(at, (image_id, known), known.nbytes)

    return run.write(rows(), ("neighbors",), _neighbor_table)


def import_correspondences(
    store: Store, scenes: Sequence[PartRecord], files: Sequence[JsonFile], progress: StageProgress
) -> Imported:
    """Import a file of correspondences as the artifacts ``rois`` and ``correspondences``; as :func:`import_proposals`.

    Args:
        store: the store.
        scenes: all parts of the scenes.
        files: the merged file, or its parts in their order.
        progress: told of every image.

    Raises:
        ValueError: also where the file does not declare ``knn_image_num`` and ``knn_bbox_pair_ratio``.
    """
    holds = {"k": _declared(files[0], "knn_image_num"), "pair_ratio": _declared(files[0], "knn_bbox_pair_ratio")}
    info = {name: declared(files[0], name) for name in _ROI_INFO}
    run = _Import(store, scenes, {"files": _hashes(files), "info": info}, holds, progress)

    def rows() -> Iterator[PlacedRow]:
        for image in read_correspondences(files):
            at = run.take(image.image_id)
            if at >= 0:
                row = _known_pairs(run, at, image)
                size = sum(pairs.query_boxes.nbytes + pairs.neighbor_boxes.nbytes for pairs in row.neighbors)
                yield run.placed(at, row, row.rois.nbytes + size + 4 * _OBJECT_BYTES * len(row.neighbors))

    return run.write(rows(), ("rois", "correspondences"), _correspondence_tables)


class _Import:
    """One import: what is known of the scenes, and what was found so far."""

    def __init__(
        self,
        store: Store,
        scenes: Sequence[PartRecord],
        source: dict[str, Any],
        holds: dict[str, float],
        progress: StageProgress,
    ) -> None:
        self.index: SceneIndex = read_scene_index(store, scenes)
        self._store, self._scenes, self._progress = store, scenes, progress
        self._source, self._holds = source, holds
        self._seen = np.zeros(len(self.index.image_ids), np.bool_)
        self._done = Imported()
        self._wrong_boxes, self._wrong_images, self._first_wrong = 0, 0, ""

    def take(self, image_id: int) -> int:
        """Return an image's position in the index, or -1 where its row is to be left out."""
        self._progress.advance(1)
        at = int(self.index.find(image_id))
        if at < 0:
            self._done.unknown += 1
        elif self._seen[at]:
            self._done.repeated += 1
            return -1
        else:
            self._seen[at] = True
        return at

    def check(self, image_id: int, boxes: Boxes, sizes: NDArray[np.int32]) -> None:
        """Note the boxes of a row that leave their images, of (2,) or (n, 2) ``sizes``, or have no area."""
        corners = boxes[:, :2].astype(np.int64) + boxes[:, 2:]
        wrong = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] < 1).any(axis=1) | (corners > sizes).any(axis=1)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            if not self._wrong_boxes:
                width, height = np.broadcast_to(sizes, (len(boxes), 2))[first]
                box = boxes[first].tolist()
                self._first_wrong = f"{box} in the row of image {image_id}, on {width} x {height} pixels"
            self._wrong_boxes += int(wrong.sum())
            self._wrong_images += 1

    def known_neighbors(self, image_id: int, neighbors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of neighbours in the index, -1 for those to be left out."""
        at = np.where(neighbors == image_id, -1, self.index.find(neighbors))
        self._done.neighbors_dropped += int((at < 0).sum())
        return at

    def placed(self, at: int, row: Any, size: int) -> PlacedRow:
        """Say to which part the row of the image at a position of the index belongs."""
        return PlacedRow(int(self.index.parts[at]), row, size + _OBJECT_BYTES)

    def write(
        self, rows: Iterable[PlacedRow], artifacts: Sequence[str], tables_of: Callable[[list[Any]], Tables]
    ) -> Imported:
        """Write rows as parts, and the manifests once all are there and right."""
        records: dict[str, list[PartRecord]] = {artifact: [] for artifact in artifacts}
        sizes = [record.rows for record in self._scenes]
        with tempfile.TemporaryDirectory(prefix="orl-import-") as scratch:
            for part, tables in regroup(rows, sizes, tables_of, Path(scratch)):
                if not self._wrong_boxes:  # else the file is read on only to say how much is wrong
                    beside: dict[str, str] = {}  # what the same rows give of earlier artifacts
                    for artifact, table in tables.items():
                        record = self._write_part(artifact, self._scenes[part], table, beside)
                        records[artifact].append(record)
                        beside[artifact] = record.content_hash
        self._raise_problems()
        for artifact, parts in records.items():
            key = canonical_digest([self._key(artifact, scene) for scene in self._scenes])
            self._store.write_manifest(artifact, key, parts)
            self._done.keys[artifact] = key
            self._done.records[artifact] = sorted(parts, key=lambda record: record.index)
        self._done.images = int(self._seen.sum()) - self._done.without_boxes
        return self._done

    def _key(self, artifact: str, scene: PartRecord) -> str:
        """Name a part by all that determines it; which neighbours are known depends on all of the scenes."""
        everything = collection_hash(self._scenes)
        return canonical_digest(
            {
                "import": artifact,
                "version": _VERSION,
                "source": self._source,
                "part": scene.index,
                "scenes": [scene.content_hash, everything],
            }
        )

    def _write_part(self, artifact: str, scene: PartRecord, table: pa.Table, beside: Mapping[str, str]) -> PartRecord:
        quarantine = []
        images = scene.rows
        if artifact == "proposals":
            table, empty = _without_empty(table)
            quarantine = self._quarantine(scene, empty)
            images -= len(quarantine)
            self._done.without_boxes += len(quarantine)
        facts = {IMPORT: self._source, MADE_FOR: scene.content_hash, HOLDS: self._holds, BESIDE: dict(beside)}
        files = {TABLE: parquet_bytes(table)}
        return self._store.write_part(
            artifact, self._key(artifact, scene), scene.index, files, rows=images, quarantine=quarantine, facts=facts
        )

    def _quarantine(self, scene: PartRecord, image_ids: pa.Array) -> list[tuple[int, str, str]]:
        """Say of images without a proposal that they have no RoI to fall back on."""
        if not len(image_ids):
            return []
        table = self._store.read_table("scenes", scene.key, columns=["image_id", "path"])
        rows = table.filter(pc.is_in(table["image_id"], value_set=image_ids)).to_pylist()
        return [(row["image_id"], row["path"], "the imported file has no proposal") for row in rows]

    def _raise_problems(self) -> None:
        if self._wrong_boxes:
            raise ValueError(
                f"boxes that leave their image or have no area: {self._wrong_boxes}, in the rows of "
                f"{self._wrong_images} images, such as {self._first_wrong}: is the file in the order of another list?"
            )
        missing = self.index.image_ids[~self._seen]
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {len(self._seen)} images of the scenes are not in the file, such as "
                f"{', '.join(map(str, missing[:_NAMED]))}: use a source of only the file's images (source.splits)"
            )


def _hashes(files: Sequence[JsonFile]) -> list[list[str]]:
    return [[file.name, file.fingerprint()] for file in files]


def _declared(file: JsonFile, name: str) -> float:
    value = declared(file, name)
    if value is None:
        raise ValueError(f"{file}: info.{name} is missing; without it nobody knows how much the file holds")
    return value


def _known_pairs(run: _Import, at: int, image: ImagePairs) -> ImagePairs:
    """Check the boxes of an image, and drop the neighbours that the scenes lack."""
    neighbors = np.array([pairs.neighbor_id for pairs in image.neighbors], np.int64)
    positions = run.known_neighbors(image.image_id, neighbors)
    kept = [pairs for pairs, known in zip(image.neighbors, positions >= 0, strict=True) if known]
    own = [image.rois, *(pairs.query_boxes for pairs in kept)]
    others = [pairs.neighbor_boxes for pairs in kept]
    of_own = np.full(sum(map(len, own)), at)
    of_others = np.repeat(positions[positions >= 0], list(map(len, others)))
    sizes = run.index.sizes[np.concatenate([of_own, of_others])]
    run.check(image.image_id, np.concatenate([*own, *others]), sizes)
    return image._replace(neighbors=kept)


def _without_empty(table: pa.Table) -> tuple[pa.Table, pa.Array]:
    """Split proposals into images that have some, and the ids of those that have none."""
    has_boxes = pc.greater(pc.list_value_length(table["boxes"]), 0)
    empty = table["image_id"].filter(pc.invert(has_boxes)).combine_chunks()
    return (table.filter(has_boxes) if len(empty) else table), empty


def _proposal_table(rows: list[tuple[int, Boxes]]) -> Tables:
    ids = pa.array([image_id for image_id, _ in rows], pa.int64())
    levels = pa.nulls(len(rows), schema.PROPOSALS.field("levels").type)
    boxes = box_list_column([boxes for _, boxes in rows])
    return {"proposals": pa.table([ids, boxes, levels], schema=schema.PROPOSALS)}


def _neighbor_table(rows: list[tuple[int, NDArray[np.int64]]]) -> Tables:
    ids = pa.array([image_id for image_id, _ in rows], pa.int64())
    lists = [neighbors for _, neighbors in rows]
    columns = [ids, list_column(lists, pa.int64()), unknown_column(lists, pa.float64())]
    return {"neighbors": pa.table(columns, schema=schema.NEIGHBORS)}


def _correspondence_tables(rows: list[ImagePairs]) -> Tables:
    own = [row.rois for row in rows]
    ids = pa.array([row.image_id for row in rows], pa.int64())
    rois = pa.table([ids, box_list_column(own), unknown_column(own, pa.int32())], schema=schema.ROIS)
    flat: list[tuple[int, int, int, NeighborPairs]] = [
        (row.image_id, rank, len(row.rois), pairs) for row in rows for rank, pairs in enumerate(row.neighbors)
    ]
    query = [pairs.query_boxes for *_, pairs in flat]
    columns = [
        pa.array([image_id for image_id, *_ in flat], pa.int64()),
        pa.array([pairs.neighbor_id for *_, pairs in flat], pa.int64()),
        pa.array([rank for _, rank, *_ in flat], pa.int32()),
        pa.array([count for _, _, count, _ in flat], pa.int32()),
        box_list_column(query),
        box_list_column([pairs.neighbor_boxes for *_, pairs in flat]),
        unknown_column(query, pa.float64()),
    ]
    return {"rois": rois, "correspondences": pa.table(columns, schema=schema.CORRESPONDENCES)}
