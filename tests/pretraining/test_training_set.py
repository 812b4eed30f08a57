"""Reading a training set: what was written comes back, by position and by image id."""

import json
import shutil

import numpy as np
import pytest

from orl_ray.pretraining.training_set import TrainingSet


def test_counts_and_ids_are_those_that_were_written(object_set):
    assert len(object_set) == 10
    assert object_set.max_pixels == 10_000
    assert object_set.image_ids.tolist() == [1000 - 7 * position for position in range(10)]
    counts = object_set.counts()
    assert (counts["images"], counts["rois"], counts["rows"], counts["pairs"]) == (10, 23, 27, 54)


def test_every_image_is_found_by_its_id(object_set):
    assert [object_set.position(int(image_id)) for image_id in object_set.image_ids] == list(range(10))


@pytest.mark.parametrize("image_id", [0, 994, 10_000])
def test_unknown_id_is_an_error(object_set, image_id):
    with pytest.raises(ValueError, match=f"no image {image_id}"):
        object_set.position(image_id)


def test_rows_of_an_image_come_in_order_with_their_pairs(object_set):
    rows = object_set.rows(2)
    assert len(rows) == 3
    assert [row.neighbor_id for row in rows] == object_set.image_ids[[3, 6, 8]].tolist()
    assert rows[1].query_boxes.tolist() == [[0, 0, 16, 20], [4, 2, 18, 20]]
    assert rows[1].neighbor_boxes.tolist() == [[4, 0, 18, 17], [0, 4, 20, 14]]
    with pytest.raises(IndexError):
        rows[3]


def test_row_counts_show_the_image_without_rows(object_set):
    assert object_set.row_counts(np.array([2, 3, 4])).tolist() == [3, 0, 3]
    assert list(object_set.rows(3)) == []


def test_folder_without_meta_is_no_training_set(tmp_path):
    with pytest.raises(ValueError, match="no training set"):
        TrainingSet.open(tmp_path)


def test_other_format_version_is_an_error(object_folder, tmp_path):
    copy = shutil.copytree(object_folder, tmp_path / "copy")
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | {"format_version": 99}))
    with pytest.raises(ValueError, match="format 99"):
        TrainingSet.open(copy)


def test_half_copied_images_are_an_error(object_folder, tmp_path):
    copy = shutil.copytree(object_folder, tmp_path / "copy")
    (copy / "images.bin").write_bytes((copy / "images.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match="copy or export it again"):
        TrainingSet.open(copy)
