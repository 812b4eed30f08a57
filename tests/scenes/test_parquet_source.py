"""Parquet files of images: columns found and named, ids, files that are none, and row groups read once."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orl_ray.folders import Folder
from orl_ray.scenes import parquet_source
from orl_ray.scenes.entries import BadEntry, SourceImage, path_id
from orl_ray.scenes.parquet_source import UnusableFileError, list_parquet, read_images

IMAGES = [bytes([65 + number]) * (number + 1) for number in range(10)]


def own_layout(**more):
    return pa.table({"caption": ["x"] * 10, "jpeg": pa.array(IMAGES, pa.binary()), **more})


def hugging_face_layout():
    rows = [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(IMAGES)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array(rows, kind), "label": list(range(10))})


def write(folder, name, table, group=4):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name, row_group_size=group)
    return Folder(folder)


def bad(found):
    return {entry.path: entry.reason for entry in found if isinstance(entry, BadEntry)}


@pytest.mark.parametrize("table", [own_layout(), hugging_face_layout()], ids=["own", "Hugging Face"])
def test_the_column_of_images_is_found_and_every_row_is_listed(tmp_path, table):
    folder = write(tmp_path, "deep/a.parquet", table)
    stamp = str((tmp_path / "deep" / "a.parquet").stat().st_mtime_ns)
    paths = [f"deep/a.parquet/{row}" for row in range(10)]
    assert list(list_parquet(folder)) == [
        SourceImage(path_id(path), path, -1, stamp, "deep/a.parquet", row) for row, path in enumerate(paths)
    ]


@pytest.mark.parametrize("table", [own_layout(), hugging_face_layout()], ids=["own", "Hugging Face"])
@pytest.mark.parametrize("rows", [range(10), [0], [3, 4], [9], [2, 7, 8]])
def test_images_are_read_by_row(tmp_path, table, rows):
    folder = write(tmp_path, "a.parquet", table)
    assert list(read_images(folder, "a.parquet", list(rows), "")) == [(row, IMAGES[row]) for row in rows]


def test_large_groups_are_read_a_few_images_at_a_time(tmp_path):
    images = [bytes([number % 251]) * 100 for number in range(200)]
    folder = write(tmp_path, "a.parquet", pa.table({"image": images}), group=200)
    wanted = [0, 15, 16, 17, 120, 199]
    assert list(read_images(folder, "a.parquet", wanted, "")) == [(row, images[row]) for row in wanted]


def test_each_row_group_is_read_once_and_the_others_are_not(tmp_path, monkeypatch):
    folder = write(tmp_path, "a.parquet", own_layout())
    groups, original = [], pq.ParquetFile.iter_batches

    def noting(self, *arguments, row_groups=None, **more):
        groups.append(row_groups)
        return original(self, *arguments, row_groups=row_groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    assert len(list(read_images(folder, "a.parquet", [0, 1, 3, 8, 9], ""))) == 5
    assert groups == [[0], [2]]


def test_null_images_and_rows_behind_the_end_are_left_out(tmp_path):
    table = pa.table({"image": pa.array([b"a", None, b"c"], pa.binary())})
    assert list(read_images(write(tmp_path, "a.parquet", table), "a.parquet", [0, 1, 2, 7], "")) == [
        (0, b"a"),
        (2, b"c"),
    ]


def test_files_come_by_path_and_other_files_are_left_alone(tmp_path):
    for name in ("b.parquet", "a/c.PARQUET", ".hidden.parquet"):
        write(tmp_path, name, own_layout())
    (tmp_path / "notes.txt").write_text("x")
    found = list(list_parquet(Folder(tmp_path), "more/"))
    assert list(dict.fromkeys(entry.container for entry in found)) == ["more/a/c.PARQUET", "more/b.parquet"]


def test_ids_come_from_their_column_and_rows_without_one_are_bad_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_source, "_ID_ROWS", 3)
    ids = pa.array([5, 3, None, -1, 8, 0, 9, 10, 11, 2**40], pa.int64())
    found = list(list_parquet(write(tmp_path, "a.parquet", own_layout(number=ids)), "", "", "number"))
    assert [entry.image_id for entry in found if isinstance(entry, SourceImage)] == [5, 3, 8, 0, 9, 10, 11, 2**40]
    assert set(bad(found)) == {"a.parquet/2", "a.parquet/3"}


def test_several_columns_of_bytes_need_a_name(tmp_path):
    folder = write(tmp_path, "a.parquet", own_layout(mask=[b"m"] * 10))
    (reason,) = bad(list_parquet(folder)).values()
    assert "jpeg, mask: name one in source.image_column" in reason
    assert len(list(list_parquet(folder, "", "mask"))) == 10
    assert next(read_images(folder, "a.parquet", [0], "mask")) == (0, b"m")


@pytest.mark.parametrize(
    ("image_column", "id_column", "told"),
    [
        ("caption", "", "no column 'caption' of bytes"),
        ("none", "", "no column 'none' of bytes"),
        ("jpeg", "caption", "no column 'caption' of integers"),
        ("jpeg", "none", "no column 'none' of integers"),
    ],
)
def test_columns_that_are_not_there_or_hold_something_else_are_told(tmp_path, image_column, id_column, told):
    (reason,) = bad(list_parquet(write(tmp_path, "a.parquet", own_layout()), "", image_column, id_column)).values()
    assert told in reason


@pytest.mark.parametrize("damage", [lambda data: b"no parquet", lambda data: data[:-20], lambda data: b""])
def test_a_broken_file_is_one_bad_entry_and_the_others_are_listed(tmp_path, damage):
    folder = write(tmp_path, "b.parquet", own_layout())
    (tmp_path / "a.parquet").write_bytes(damage((tmp_path / "b.parquet").read_bytes()))
    found = list(list_parquet(folder))
    assert set(bad(found)) == {"a.parquet"}
    assert sum(isinstance(entry, SourceImage) for entry in found) == 10
    with pytest.raises(UnusableFileError):
        list(read_images(folder, "a.parquet", [0], ""))


def test_pages_that_are_damaged_are_told_when_they_are_read(tmp_path):
    folder = write(tmp_path, "a.parquet", pa.table({"image": [bytes(10_000)] * 4}))
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:300] = b"\xff" * 296
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UnusableFileError):
        list(read_images(folder, "a.parquet", [0], ""))


def test_files_behind_links_that_leave_the_folder_are_bad_entries(tmp_path):
    write(tmp_path / "other", "a.parquet", own_layout())
    folder = write(tmp_path / "source", "b.parquet", own_layout())
    (tmp_path / "source" / "c.parquet").symlink_to(tmp_path / "other" / "a.parquet")
    assert bad(list_parquet(folder)) == {"c.parquet": "is a link that leaves the source"}


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match="no folder at"):
        list(list_parquet(Folder(tmp_path / "none")))
