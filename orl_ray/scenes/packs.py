"""Packed scenes: the encoded images of a part in a few large files, so that a part is a few requests, not hundreds.

A part of ``packed_scenes`` is the table of its images, with where the bytes of each lie, and files of at most about
128 MB of images one after the other, in id order.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from orl_ray.storage import PartRecord, Store, StoreError, digest

ARTIFACT = "packed_scenes"
# What a worker holds of a part's images at a time, and what one request brings.
PACK_BYTES = 128 * 2**20
_PLACE = ("image_id", "path", "width", "height", "content_hash", "pack", "offset", "bytes")
# Below this share of a pack, images are fetched one by one.
_WHOLE_SHARE = 0.25


@dataclass(slots=True)
class PackWriter:
    """Packs the images of one part, writing each file as it fills up.

    Attributes:
        store: the store.
        key: the part's key.
        written: file name -> entry of each file written so far, for :meth:`Store.write_part`.
    """

    store: Store
    key: str
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    _open: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> tuple[int, int]:
        """Add an encoded image; return the number of its file, and where it begins there, bytes."""
        if self._open and len(self._open) + len(data) > PACK_BYTES:
            self._flush()
        start = len(self._open)
        self._open += data
        return len(self.written), start

    def finish(self) -> dict[str, dict[str, Any]]:
        """Write what is left; return the entries of all files."""
        if self._open:
            self._flush()
        return self.written

    def _flush(self) -> None:
        data, self._open = bytes(self._open), bytearray()
        # The content is in the name: a part that is packed again never changes a file that somebody may be reading.
        name = f"{_prefix(len(self.written))}{digest(data)[:16]}.bin"
        self.written[name] = self.store.write_part_file(ARTIFACT, self.key, name, data)


def packed_part(store: Store, scenes_key: str) -> str:
    """Return the key of the part of ``packed_scenes`` that holds the images of a part of ``scenes``.

    Raises:
        StoreError: there is no such part of ``scenes``.
    """
    record = store.record("scenes", scenes_key)
    if record is None:
        raise StoreError(f"scenes {scenes_key}: no such part; run the pipeline again to make it")
    return str(record.facts[ARTIFACT])


def read_pack(store: Store, key: str, wanted: Collection[int] | None = None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield (row, encoded image) of the images of a part, by rising id; one pack file in memory at a time.

    Args:
        store: the store.
        key: the part of ``packed_scenes``.
        wanted: image ids; None takes all of the part. Few images of a pack are fetched one by one.

    Raises:
        StoreError: the part, or one of its files, is not there or changed since it was written.
    """
    record = _record(store, key)
    for pack, rows in _by_pack(store.read_table(ARTIFACT, key, columns=_PLACE)):
        name = next(name for name in record.files if name.startswith(_prefix(pack)))
        chosen = [row for row in rows if wanted is None or row["image_id"] in wanted]
        if sum(row["bytes"] for row in chosen) > _WHOLE_SHARE * record.files[name]["bytes"]:
            data = memoryview(store.read_file(ARTIFACT, key, name))
            for row in chosen:
                yield row, bytes(data[row["offset"] : row["offset"] + row["bytes"]])
        else:
            for row in chosen:
                yield row, read_range(store, key, name, row["offset"], row["bytes"], row["content_hash"])


def locate(store: Store, key: str, wanted: Collection[int] | None = None) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Yield (row, name of its file, bytes of that file) of the images of a part, by rising id; no image is read.

    Args:
        store: the store.
        key: the part of ``packed_scenes``.
        wanted: image ids; None takes all of the part.

    Raises:
        StoreError: there is no such part.
    """
    record = _record(store, key)
    for pack, rows in _by_pack(store.read_table(ARTIFACT, key, columns=_PLACE)):
        name = next(name for name in record.files if name.startswith(_prefix(pack)))
        for row in rows:
            if wanted is None or row["image_id"] in wanted:
                yield row, name, int(record.files[name]["bytes"])


def read_range(store: Store, key: str, name: str, offset: int, size: int, content_hash: str) -> bytes:
    """Read one image of a pack.

    Args:
        store: the store.
        key: the part of ``packed_scenes``.
        name: the pack.
        offset: where the image begins there.
        size: its bytes.
        content_hash: of these.

    Raises:
        StoreError: the image changed since it was written.
    """
    data = store.part_folder(ARTIFACT, key).read_range(name, offset, size)
    if digest(data) != content_hash:
        raise StoreError(f"{ARTIFACT} {key}: the image at {offset} in {name} changed since it was written")
    return data


def _record(store: Store, key: str) -> PartRecord:
    record = store.record(ARTIFACT, key)
    if record is None:
        raise StoreError(f"{ARTIFACT} {key}: no such part; run the pipeline again to make it")
    return record


def _by_pack(table: pa.Table) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    for pack in sorted({row["pack"] for row in rows}):
        yield pack, [row for row in rows if row["pack"] == pack]


def _prefix(pack: int) -> str:
    return f"images-{pack:05d}-"
