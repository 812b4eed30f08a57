"""Boxes from files: either kind reads alike; rounded outwards, laid out by part of the scenes, none lost unsaid."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.embeddings.given_boxes import ARTIFACT, part_file, read_boxes, within, write_given_boxes
from orl_ray.scenes.entries import path_id

BOXES = [[1.0, 2.0, 3.5, 4.0], [0.0, 0.0, 10.0, 10.0], [5.25, 5.75, 1.0, 1.0]]


@pytest.fixture
def parquet(tmp_path):
    def write(**columns):
        pq.write_table(pa.table(columns), tmp_path / "boxes.parquet", row_group_size=2)
        return str(tmp_path / "boxes.parquet")

    return write


class TestReading:
    def test_coco_and_parquet_are_read_alike(self, parquet, tmp_path):
        annotations = [{"image_id": i, "bbox": box, "category_id": 1} for i, box in zip([7, 8, 7], BOXES, strict=True)]
        (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": annotations}))
        for place in (str(tmp_path / "coco.json"), parquet(image_id=[7, 8, 7], box=BOXES)):
            found = read_boxes(place)
            assert found.ids.tolist() == [7, 8, 7]
            assert found.boxes.tolist() == BOXES

    def test_paths_stand_for_the_ids_that_a_folder_gives_them(self, parquet):
        found = read_boxes(parquet(path=["a.jpg", "b/ü.jpg", "a.jpg"], box=pa.array(BOXES, pa.list_(pa.float32(), 4))))
        assert found.ids.tolist() == [path_id("a.jpg"), path_id("b/ü.jpg"), path_id("a.jpg")]

    @pytest.mark.parametrize(
        ("columns", "told"),
        [
            ({"image_id": [1], "bbox": [[1, 2, 3, 4]]}, "needs a column box and a column image_id or path"),
            ({"image_id": [1], "box": [[1, 2, 3]]}, "box of four numbers"),
            ({"image_id": [1, 2], "box": [[1, 2, 3, 4], [1]]}, "not four numbers"),
            ({"image_id": ["1"], "box": [[1, 2, 3, 4]]}, "integer image_id"),
            ({"image_id": [1, 2], "box": [[1, 2, 3, 4], [1, 2, float("nan"), 4]]}, "row 1 has a box that is not four"),
        ],
    )
    def test_anything_else_is_refused(self, parquet, columns, told):
        with pytest.raises(ValueError, match=told):
            read_boxes(parquet(**columns))

    def test_files_that_are_not_there_or_not_coco(self, tmp_path):
        (tmp_path / "a.json").write_text('{"annotations": [{"image_id": 1}]}')
        with pytest.raises(ValueError, match="no image_id or no bbox"):
            read_boxes(str(tmp_path / "a.json"))
        for name in ("b.json", "b.parquet"):
            with pytest.raises(ValueError, match="no file at"):
                read_boxes(str(tmp_path / name))


def reference_within(box, width, height):
    """Enumerate the pixels of an image that a box touches."""
    x, y, w, h = box
    columns = [c for c in range(width) if c < x + w and c + 1 > x] if w > 0 else []
    rows = [r for r in range(height) if r < y + h and r + 1 > y] if h > 0 else []
    if not columns or not rows:
        return None
    return [columns[0], rows[0], len(columns), len(rows)]


NUMBERS = st.integers(-40, 80).map(lambda quarters: quarters / 4)


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(1, 9),
)
def test_a_box_becomes_the_pixels_of_its_image_that_it_touches(boxes, width, height):
    sizes = [np.full(len(boxes), side, np.int32) for side in (width, height)]
    found, inside = within(np.array(boxes), *sizes)
    for row, box in enumerate(boxes):
        wanted = reference_within(box, width, height)
        assert inside[row] == (wanted is not None)
        if wanted:
            assert found[row].tolist() == wanted


def test_each_part_gets_its_boxes_in_the_order_of_the_file_and_the_rest_is_counted(finished, parquet, tmp_path):
    small = finished.copy(tmp_path / "copy")
    rows = small.rows("scenes")
    ids = [row["image_id"] for row in rows]
    given_ids = [ids[3], ids[-1], 424242, ids[3], ids[0], ids[3]]
    boxes = [[1, 1, 5, 5], [2, 2, 6, 6], [0, 0, 1, 1], [900, 0, 5, 5], [3.5, 3.5, 2, 2], [0, 0, 9, 9]]
    place = parquet(image_id=given_ids, box=[list(map(float, box)) for box in boxes])
    write_given_boxes(small.store, place, small.plan("scenes").key, "key")
    (record,) = small.store.collection(ARTIFACT, "key")
    assert (record.rows, record.facts) == (4, {"unknown": 1, "outside": 1})
    found = {
        scenes.index: small.store.read_table(ARTIFACT, "key", part_file(scenes.index)).to_pylist()
        for scenes in small.records("scenes")
    }
    assert len(found) > 1
    for index, scenes in enumerate(small.tables("scenes")):
        own = set(scenes["image_id"].to_pylist())
        assert {row["image_id"] for row in found[index]} <= own
        assert [row["image_id"] for row in found[index]] == sorted(row["image_id"] for row in found[index])
    every = [row for part in found.values() for row in part]
    assert sorted((row["image_id"], row["box_row"], row["box"]) for row in every) == sorted(
        [
            (ids[3], 0, [1, 1, 5, 5]),
            (ids[-1], 1, [2, 2, 6, 6]),
            (ids[0], 4, [3, 3, 3, 3]),
            (ids[3], 5, [0, 0, 9, 9]),
        ]
    )
    assert [row["box_row"] for row in every if row["image_id"] == ids[3]] == [0, 5]
