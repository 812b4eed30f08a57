"""Writing a training set: a stream of images in, memory bounded by one image, whole or not at all."""

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orl_ray.pretraining.training_set import DECODED, FORMAT_VERSION, IMAGES, META, PACKS

_CHECKED_AT_ONCE = 1 << 20
_HASH_DIGITS = 32
_COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "image_ids": (np.int64, ()),
    "image_offsets": (np.int64, ()),
    "image_sizes": (np.int64, ()),
    "roi_offsets": (np.int64, ()),
    "roi_boxes": (np.int32, (4,)),
    "row_offsets": (np.int64, ()),
    "neighbor_ids": (np.int64, ()),
    "pair_offsets": (np.int64, ()),
    "query_boxes": (np.int32, (4,)),
    "neighbor_boxes": (np.int32, (4,)),
}


_PACKED_COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "image_packs": (np.int32, ()),
    "image_hashes": (np.uint8, (_HASH_DIGITS,)),
}


class InStore(NamedTuple):
    """Where an image lies that is not copied.

    Attributes:
        pack: number of its pack in the list that the writer was given.
        offset: where it begins there, bytes.
        size: its bytes.
        content_hash: of these.
    """

    pack: int
    offset: int
    size: int
    content_hash: str


class TrainingSetWriter:
    """Writes a training set, as a context manager: leaving the block without an error publishes the folder.

    Args:
        folder: must not exist; its parent must. Until the end the files lie in a hidden sibling; an error removes it.
        max_pixels: the pixel limit that readers pass to the decoder.
        packs: where images stay: ``store``, the bytes to keep of it as ``cache_bytes``, and a list that is complete at
            the end of the block, ``packs``, of (key, name, bytes). None where images are copied.
        decoded_bytes: most bytes of decoded images that readers keep in the folder.

    Raises:
        ValueError: the folder exists.
    """

    def __init__(
        self, folder: Path, max_pixels: int, packs: Mapping[str, Any] | None = None, decoded_bytes: int = 0
    ) -> None:
        if folder.exists():
            raise ValueError(f"{folder} exists already: remove it, or export to another folder")
        self._folder = folder
        self._packs = packs
        self._limits = {"max_pixels": max_pixels, "decoded_bytes": decoded_bytes}
        self._hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")

    def __enter__(self) -> Self:
        self._hidden.mkdir()
        columns = _COLUMNS if self._packs is None else _COLUMNS | _PACKED_COLUMNS
        self._columns = {name: _Column(self._hidden / f"{name}.npy", *shape) for name, shape in columns.items()}
        self._images, self._bytes = (self._hidden / IMAGES).open("wb"), 0
        for name in ("roi_offsets", "row_offsets", "pair_offsets"):
            self._columns[name].append([0])
        return self

    def add(
        self,
        image_id: int,
        data: bytes | InStore,
        rois: ArrayLike | None = None,
        neighbours: Sequence[tuple[int, ArrayLike, ArrayLike]] = (),
    ) -> None:
        """Add one image.

        Args:
            image_id: unique in the set.
            data: the encoded image, in any format that the decoder takes; or where it stays.
            rois: (n, 4) xywh pixels, n >= 1; None for an image-level set.
            neighbours: ``(neighbor_id, query_boxes (m, 4), neighbor_boxes (m, 4))`` by falling similarity. Neighbours
                without a pair (m = 0) are left out.

        Raises:
            ValueError: no data, or boxes of a wrong shape or number.
        """
        boxes = np.empty((0, 4), np.int32) if rois is None else _boxes(rois, f"the RoIs of image {image_id}")
        rows = [_row(image_id, *neighbour) for neighbour in neighbours]
        if not len(boxes) and (neighbours or rois is not None):
            raise ValueError(f"image {image_id} has no RoI: an object-level set needs at least one an image")
        self._place(image_id, data)
        columns = self._columns
        columns["image_ids"].append([image_id])
        columns["roi_boxes"].append(boxes)
        columns["roi_offsets"].append([columns["roi_boxes"].length])
        for neighbor_id, query_boxes, neighbor_boxes in rows:
            if len(query_boxes):
                columns["neighbor_ids"].append([neighbor_id])
                columns["query_boxes"].append(query_boxes)
                columns["neighbor_boxes"].append(neighbor_boxes)
                columns["pair_offsets"].append([columns["query_boxes"].length])
        columns["row_offsets"].append([columns["neighbor_ids"].length])

    def _place(self, image_id: int, data: bytes | InStore) -> None:
        """Write an image, or where it is."""
        if isinstance(data, InStore):
            offset, size = data.offset, data.size
            self._columns["image_packs"].append([data.pack])
            self._columns["image_hashes"].append(np.frombuffer(data.content_hash.encode(), np.uint8))
        else:
            offset, size = self._bytes, len(data)
            self._images.write(data)
        if not size:
            raise ValueError(f"image {image_id} has no bytes")
        self._columns["image_offsets"].append([offset])
        self._columns["image_sizes"].append([size])
        self._bytes += size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._images.close()
            for column in self._columns.values():
                column.close()
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)

    def _publish(self) -> None:
        _write_index(self._hidden)
        _check_neighbors(self._hidden)
        counts = {
            "images": self._columns["image_ids"].length,
            "bytes": self._bytes,
            "rois": self._columns["roi_boxes"].length,
            "rows": self._columns["neighbor_ids"].length,
            "pairs": self._columns["query_boxes"].length,
        }
        meta = {"format_version": FORMAT_VERSION, "counts": counts, **self._limits}
        if self._limits["decoded_bytes"]:
            (self._hidden / DECODED).mkdir()
        if self._packs is not None:
            meta[PACKS] = dict(self._packs)
            (self._hidden / IMAGES).unlink()
        (self._hidden / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
        self._hidden.rename(self._folder)


class _Column:
    """A .npy file that grows along its first axis; its header is written again, at the same length, at the end."""

    def __init__(self, path: Path, dtype: type[np.generic], tail: tuple[int, ...]) -> None:
        self.length = 0
        self._dtype, self._tail = np.dtype(dtype), tail
        self._file = path.open("wb")
        self._write_header()
        self._header = self._file.tell()

    def append(self, values: ArrayLike) -> None:
        array = np.asarray(values, self._dtype).reshape(-1, *self._tail)
        self._file.write(array.tobytes())
        self.length += len(array)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._header:  # NumPy pads headers so that a first axis may grow to 21 digits
            raise ValueError(f"{self._file.name}: the header of {self.length} rows does not fit the space kept for it")
        self._file.close()

    def _write_header(self) -> None:
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.length, *self._tail)}
        np.lib.format.write_array_header_1_0(self._file, header)


def _boxes(values: ArrayLike, what: str) -> NDArray[np.int32]:
    boxes = np.asarray(values)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{what} must be (n, 4) xywh, not {boxes.shape}")
    if boxes.size and (boxes[:, :2].min() < 0 or boxes[:, 2:].min() < 1):
        raise ValueError(f"{what} hold a box with a negative corner or without area")
    return boxes.astype(np.int32)


def _row(
    image_id: int, neighbor_id: int, query: ArrayLike, neighbor: ArrayLike
) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    what = f"boxes of the pair of images {image_id} and {neighbor_id}"
    query_boxes, neighbor_boxes = _boxes(query, f"query {what}"), _boxes(neighbor, f"neighbour {what}")
    if len(query_boxes) != len(neighbor_boxes):
        raise ValueError(f"the {what} differ in number: {len(query_boxes)} and {len(neighbor_boxes)}")
    return neighbor_id, query_boxes, neighbor_boxes


def _write_index(folder: Path) -> None:
    ids = np.load(folder / "image_ids.npy", mmap_mode="r")
    if not len(ids):
        raise ValueError("a training set needs at least one image")
    order = np.argsort(ids, kind="stable")
    by_value = np.asarray(ids[order])
    if (repeated := by_value[1:][by_value[1:] == by_value[:-1]]).size:
        raise ValueError(f"image ids must be unique, {repeated[0]} was added twice")
    np.save(folder / "sorted_ids.npy", by_value)
    np.save(folder / "sorted_positions.npy", order.astype(np.int64))


def _check_neighbors(folder: Path) -> None:
    by_value: NDArray[np.int64] = np.load(folder / "sorted_ids.npy", mmap_mode="r")
    neighbors: NDArray[Any] = np.load(folder / "neighbor_ids.npy", mmap_mode="r")
    for start in range(0, len(neighbors), _CHECKED_AT_ONCE):
        chunk = np.asarray(neighbors[start : start + _CHECKED_AT_ONCE])
        found = by_value[np.minimum(np.searchsorted(by_value, chunk), len(by_value) - 1)] == chunk
        if not found.all():
            raise ValueError(
                f"image {chunk[~found][0]} is a neighbour of an image, but is not in the training set itself"
            )
