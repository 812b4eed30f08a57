"""Rows of any order become whole parts, and no more is open than may be."""

import random

import pyarrow as pa
import pytest

from orl_ray.interchange.regrouping import PlacedRow, regroup

SIZES = [3, 0, 5, 2]
ROWS = [PlacedRow(part, 100 * part + number, 10) for part, size in enumerate(SIZES) for number in range(size)]


class Tables:
    """Makes two tables of rows, and remembers how many rows came at a time."""

    def __init__(self):
        self.largest = 0

    def __call__(self, rows):
        self.largest = max(self.largest, len(rows))
        ids = pa.array(rows, pa.int64())
        doubled = pa.array([row for row in rows for _ in "ab"], pa.int64())
        ranks = pa.array([rank for _ in rows for rank in (0, 1)], pa.int64())
        return {"ids": pa.table({"image_id": ids}), "pairs": pa.table({"image_id": doubled, "rank": ranks})}


def collected(rows, folder, most_bytes, tables=None):
    found = {}
    for part, parts in regroup(rows, SIZES, tables or Tables(), folder, most_bytes):
        assert part not in found
        found[part] = {name: table.to_pydict() for name, table in parts.items()}
    return found


def expected():
    return {
        part: {
            "ids": {"image_id": [100 * part + n for n in range(size)]},
            "pairs": {"image_id": [100 * part + n for n in range(size) for _ in "ab"], "rank": [0, 1] * size},
        }
        for part, size in enumerate(SIZES)
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most_bytes", [0, 30, 10_000])
def test_any_order_and_any_memory_give_the_same_sorted_parts(tmp_path, seed, most_bytes):
    rows = random.Random(seed).sample(ROWS, len(ROWS))
    assert collected(rows, tmp_path, most_bytes) == expected()
    assert list(tmp_path.iterdir()) == []  # what was spilled was read again and removed


def test_a_part_comes_as_soon_as_its_last_image_is_there(tmp_path):
    taken = []

    def rows():
        for row in ROWS:
            taken.append(row)
            yield row

    came = [(part, len(taken)) for part, _ in regroup(rows(), SIZES, Tables(), tmp_path)]
    assert came == [(1, 0), (0, 3), (2, 8), (3, 10)]


def test_a_part_that_lacks_an_image_does_not_come(tmp_path):
    assert set(collected(ROWS[1:], tmp_path, 0)) == {1, 2, 3}


def test_open_rows_stay_below_the_limit(tmp_path):
    sizes, tables = [400, 400], Tables()
    rows = [PlacedRow(number % 2, number, 10) for number in range(800)]
    spilled = 0
    for _part, _ in regroup(rows, sizes, tables, tmp_path, most_bytes=500):
        spilled = max(spilled, len(list(tmp_path.iterdir())))
    assert tables.largest <= 500 // 10 + 1
    assert spilled > 5
