"""Reading scenes for the stages: from the packs alone, each image once, as it was at ingest."""

import numpy as np
import pytest
from small_store import image_files, lose_source, part_without_images

from orl_ray.scenes.decode import BadImageError, decode
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.storage import TABLE, StoreError, parquet_bytes

LIMIT = 10**8


def first_key(small):
    return small.records("scenes")[0].key


def test_every_image_comes_once_in_the_order_of_the_table(finished):
    scenes, folder = finished.tables("scenes")[0], image_files(finished)
    found = list(decoded_scenes(finished.store, first_key(finished), LIMIT))
    assert [image_id for image_id, _ in found] == scenes["image_id"].to_pylist()
    for (_, image), row in zip(found, scenes.to_pylist(), strict=True):
        np.testing.assert_array_equal(image, decode((folder / row["path"]).read_bytes(), LIMIT))
        assert image.shape == (row["height"], row["width"], 3)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_only_wanted_images_come_whether_few_or_many(finished, count):
    ids = finished.tables("scenes")[0]["image_id"].to_pylist()
    wanted = set(ids[::-1][:count])
    found = dict(decoded_scenes(finished.store, first_key(finished), LIMIT, wanted))
    assert list(found) == sorted(wanted)
    whole = dict(decoded_scenes(finished.store, first_key(finished), LIMIT))
    for image_id, image in found.items():
        np.testing.assert_array_equal(image, whole[image_id])


def test_images_that_a_retry_added_to_the_pack_come_only_with_scenes_that_know_them(finished, tmp_path):
    small = finished.copy(tmp_path / "copy")
    scenes, record = small.tables("scenes")[0], small.records("scenes")[0]
    fewer = parquet_bytes(scenes.slice(1))
    small.store.write_part("scenes", "fewer", 0, {TABLE: fewer}, rows=len(scenes) - 1, facts=record.facts)
    found = [image_id for image_id, _ in decoded_scenes(small.store, "fewer", LIMIT)]
    assert found == scenes["image_id"].to_pylist()[1:]


def test_what_becomes_of_the_source_after_ingest_changes_nothing(finished, tmp_path):
    small = finished.copy(tmp_path / "copy")
    lose_source(small)
    before, after = (dict(decoded_scenes(one.store, first_key(one), LIMIT)) for one in (finished, small))
    assert before.keys() == after.keys()
    for image_id in before:
        np.testing.assert_array_equal(before[image_id], after[image_id])


def test_a_part_without_images_gives_none(finished, tmp_path):
    small = finished.copy(tmp_path / "copy")
    assert list(decoded_scenes(small.store, part_without_images(small), LIMIT)) == []


def test_a_pack_that_is_gone_is_told_and_never_taken_for_a_bad_image(finished, tmp_path):
    small = finished.copy(tmp_path / "copy")
    record = small.records("packed_scenes")[0]
    for name in record.files.keys() - {TABLE}:
        small.store.part_folder("packed_scenes", record.key).delete(name)
    with pytest.raises(StoreError, match="is gone or changed since it was written"):
        list(decoded_scenes(small.store, first_key(small), LIMIT))


def test_a_lower_limit_than_at_ingest_is_told(finished):
    with pytest.raises(BadImageError, match="megapixels, limit"):
        list(decoded_scenes(finished.store, first_key(finished), 100))
