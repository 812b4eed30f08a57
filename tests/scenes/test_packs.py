"""Packs: bounded files, every byte where the table says, few images by ranges, changes refused."""

from unittest import mock

import pyarrow as pa
import pytest

from orl_ray import schema
from orl_ray.folders import Folder
from orl_ray.scenes import packs
from orl_ray.scenes.packs import PackWriter, packed_part, read_pack
from orl_ray.storage import TABLE, Store, StoreError, digest, parquet_bytes


def image(number, size):
    return bytes([number]) * size


def write_pack(store, key, images):
    """Write a part of packed scenes from {image id: bytes}."""
    writer, rows = PackWriter(store, key), []
    for image_id, data in sorted(images.items()):
        pack, offset = writer.add(data)
        place = {"pack": pack, "offset": offset, "bytes": len(data)}
        looks = {"width": 1, "height": 1, "part": 0, "perceptual_hash": 0, "thumbnail": bytes(192)}
        rows.append({"image_id": image_id, "path": f"{image_id}.jpg", "content_hash": digest(data), **place, **looks})
    table = parquet_bytes(pa.Table.from_pylist(rows, schema=schema.PACKED_SCENES))
    return store.write_part("packed_scenes", key, 0, {TABLE: table}, rows=len(rows), written=writer.finish())


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    made.prepare()
    return made


IMAGES = {number: image(number, 10 * number) for number in range(1, 21)}


def read(store, wanted=None):
    return {row["image_id"]: data for row, data in read_pack(store, "k", wanted)}


@pytest.mark.parametrize("limit", [1, 100, 250, 10**6])
def test_every_image_comes_back_whatever_the_size_of_a_pack(store, monkeypatch, limit):
    monkeypatch.setattr(packs, "PACK_BYTES", limit)
    write_pack(store, "k", IMAGES)
    assert read(store) == IMAGES
    assert [row["image_id"] for row, _ in read_pack(store, "k")] == sorted(IMAGES)


def test_no_file_outgrows_the_limit_unless_one_image_does(store, monkeypatch):
    monkeypatch.setattr(packs, "PACK_BYTES", 250)
    record = write_pack(store, "k", {**IMAGES, 99: image(99, 1000)})
    sizes = sorted(entry["bytes"] for name, entry in record.files.items() if name != TABLE)
    assert sizes[-1] == 1000
    assert all(size <= 250 for size in sizes[:-1])


def test_few_images_are_fetched_by_ranges_and_many_by_the_whole_file(store):
    write_pack(store, "k", IMAGES)
    with mock.patch.object(Folder, "read_range", autospec=True, side_effect=Folder.read_range) as ranged:
        assert read(store, {3, 4}) == {3: IMAGES[3], 4: IMAGES[4]}
        assert ranged.call_count == 2
        assert read(store, IMAGES.keys() - {3}) == {i: data for i, data in IMAGES.items() if i != 3}
        assert ranged.call_count == 2


def test_unwanted_images_are_not_read_at_all(store):
    write_pack(store, "k", IMAGES)
    assert read(store, {77}) == {}


@pytest.mark.parametrize("wanted", [None, {5}])
def test_a_changed_byte_is_refused_whole_or_ranged(store, wanted):
    record = write_pack(store, "k", IMAGES)
    name = next(name for name in record.files if name != TABLE)
    path = store.part_folder("packed_scenes", "k").local / name
    data = bytearray(path.read_bytes())
    data[sum(10 * number for number in range(1, 5)) + 7] ^= 1  # inside image 5
    path.write_bytes(data)
    with pytest.raises(StoreError, match="changed since it was written"):
        read(store, wanted)


def test_packing_again_leaves_the_files_that_others_may_be_reading(store):
    first = write_pack(store, "k", IMAGES)
    fewer = {i: data for i, data in IMAGES.items() if i != 5}
    second = write_pack(store, "k", fewer)
    old, new = ({name for name in record.files if name != TABLE} for record in (first, second))
    assert not old & new
    assert all(store.part_folder("packed_scenes", "k").exists(name) for name in old | new)
    assert read(store) == fewer


def test_an_empty_part_holds_nothing(store):
    write_pack(store, "k", {})
    assert read(store) == {}


def test_a_part_that_was_never_packed_is_told(store):
    with pytest.raises(StoreError, match="packed_scenes none: no such part"):
        list(read_pack(store, "none"))
    with pytest.raises(StoreError, match="scenes none: no such part"):
        packed_part(store, "none")
