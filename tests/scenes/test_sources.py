"""Listing folders and COCO files, splits and limits."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.scenes.sources import SourceImage, list_coco, list_folder, path_id, restrict, take


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def coco(tmp_path: Path, images: list[object]) -> Path:
    path = tmp_path / "images.json"
    path.write_text(json.dumps({"images": images}))
    return path


def test_folder_lists_images_of_all_formats_in_either_case_sorted_by_path(tmp_path: Path) -> None:
    names = ["b.jpg", "a/z.PNG", "a/c/x.Jpeg", "a.webp", "d.gif", "e.BMP", "f.tif", "g.TIFF"]
    touch(tmp_path, *names, "notes.txt", "jpg", "a/readme.md")
    assert [image.path for image in list_folder(tmp_path)] == sorted(names)


@given(
    st.sets(st.lists(st.sampled_from(["a", "a.b", "a-", "B", "é"]), min_size=1, max_size=3).map("/".join), max_size=8)
)
def test_folder_order_is_the_order_of_whole_paths(tmp_path_factory: pytest.TempPathFactory, stems: set[str]) -> None:
    root = tmp_path_factory.mktemp("root")
    touch(root, *[stem + ".jpg" for stem in stems])
    assert [image.path for image in list_folder(root)] == sorted(stem + ".jpg" for stem in stems)


def test_folder_skips_hidden_files_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden.jpg", ".cache/a.jpg", "._b.jpg", "b.jpg")
    assert [image.path for image in list_folder(tmp_path)] == ["b.jpg"]


def test_folder_ids_hang_on_the_relative_path_alone(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a/b.jpg", "c.jpg")
    touch(tmp_path / "two" / "deep", "a/b.jpg")
    one = {image.path: image.image_id for image in list_folder(tmp_path / "one")}
    two = {image.path: image.image_id for image in list_folder(tmp_path / "two" / "deep")}
    assert one["a/b.jpg"] == two["a/b.jpg"] == 3744377629895026263
    assert one["c.jpg"] != one["a/b.jpg"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_path_id_is_63_bits_and_the_same_in_both_unicode_spellings(path: str) -> None:
    assert 0 <= path_id(path) < 2**63
    assert path_id(unicodedata.normalize("NFD", path)) == path_id(unicodedata.normalize("NFC", path))


def test_folder_that_is_missing_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image folder at"):
        list_folder(tmp_path / "nowhere")


def test_folder_refuses_links_that_leave_the_root_and_names_them(tmp_path: Path) -> None:
    touch(tmp_path, "outside.jpg", "other/x.jpg", "root/a.jpg")
    root = tmp_path / "root"
    (root / "file.jpg").symlink_to(tmp_path / "outside.jpg")
    (root / "up").symlink_to("../other")
    (root / "ignored.txt").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(ValueError, match="leaves the image folder") as caught:
        list(list_folder(root))
    assert "'file.jpg'" in str(caught.value)
    assert "'up'" in str(caught.value)
    assert "ignored" not in str(caught.value)


def test_folder_refuses_links_to_folders_inside_so_that_loops_cannot_hang_it(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="'a/loop' is a link to a folder"):
        list(list_folder(tmp_path))


def test_folder_accepts_links_to_files_inside_and_a_root_that_is_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "root/a.jpg")
    (tmp_path / "root" / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "root" / "broken.jpg").symlink_to("not_there.jpg")
    (tmp_path / "link").symlink_to("root")
    assert [image.path for image in list_folder(tmp_path / "link")] == ["a.jpg", "b.jpg", "broken.jpg"]


def test_folder_refuses_two_names_that_differ_in_unicode_spelling_only(tmp_path: Path) -> None:
    touch(tmp_path, unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg"))
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system normalises names")
    with pytest.raises(ValueError, match="two Unicode spellings"):
        list(list_folder(tmp_path))


def test_folder_refuses_names_that_are_not_utf8(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match="not a UTF-8 name"):
        list(list_folder(tmp_path))


def test_coco_gives_ids_and_paths_in_file_order_without_looking_at_files(tmp_path: Path) -> None:
    path = coco(tmp_path, [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "x/../sub/./a.jpg"}])
    assert list(list_coco(path, tmp_path)) == [SourceImage(7, "b.jpg"), SourceImage(3, "sub/a.jpg")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": 1, "file_name": "x.jpg"}, "duplicate id 1"),
        ({"id": 2, "file_name": "/etc/x.jpg"}, "absolute"),
        ({"id": 2, "file_name": "a/../../x.jpg"}, "leaves the image folder"),
        ({"id": 2, "file_name": ".."}, "leaves the image folder"),
        ({"id": 2, "file_name": ""}, "no 'file_name'"),
        ({"id": 2}, "no 'file_name'"),
        ({"id": "2", "file_name": "x.jpg"}, "no integer 'id'"),
        ({"id": True, "file_name": "x.jpg"}, "no integer 'id'"),
        ({"id": 2**63, "file_name": "x.jpg"}, "no integer 'id'"),
        ({"id": [2], "file_name": "x.jpg"}, "no integer 'id'"),
        ("x.jpg", "no integer 'id'"),
    ],
)
def test_coco_refuses_bad_rows(tmp_path: Path, row: object, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"images\[1\]: .*{problem}"):
        list_coco(coco(tmp_path, [{"id": 1, "file_name": "a.jpg"}, row]), tmp_path)


def test_coco_lists_ten_problems_and_counts_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="and 3 more") as caught:
        list_coco(coco(tmp_path, [{"id": 1, "file_name": f"/{name}.jpg"} for name in range(13)]), tmp_path)
    assert str(caught.value).count("absolute") == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "not an object"),
        ("{}", "no list 'images'"),
        ('{"images": {}}', "no list 'images'"),
        ("{", "not valid JSON"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_coco_refuses_files_that_are_no_coco_json(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "images.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        list_coco(path, tmp_path)


def test_coco_refuses_missing_json_and_missing_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file at"):
        list_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(ValueError, match="no image folder at"):
        list_coco(coco(tmp_path, []), tmp_path / "none")


def test_restrict_keeps_the_split_in_source_order(tmp_path: Path) -> None:
    images = [SourceImage(i, f"{name}.jpg") for i, name in enumerate("dbca")]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["a.jpg", "b.jpg"], "test": ["c.jpg"]}))
    assert [image.path for image in restrict(iter(images), splits, "train")] == ["b.jpg", "a.jpg"]
    with pytest.raises(ValueError, match=r"no split 'val' in .*'train', 'test'"):
        restrict(images, splits, "val")
    with pytest.raises(ValueError, match=r"not in the source:\n  c.jpg"):
        restrict(images[:1] + images[3:], splits, "test")


@pytest.mark.parametrize("content", ["[]", '{"train": "a.jpg"}', '{"train": [1]}'])
def test_restrict_refuses_files_that_hold_no_splits(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(ValueError, match="split"):
        restrict([], tmp_path / "splits.json", "train")


@given(st.permutations(range(60)), st.integers(0, 70), st.integers(0, 3))
def test_take_hangs_on_ids_and_seed_and_not_on_order(order: list[int], limit: int, seed: int) -> None:
    taken = take((SourceImage(i * 1_000_003, str(i)) for i in order), limit, seed)
    assert taken == take([SourceImage(i * 1_000_003, str(i)) for i in range(60)], limit, seed)
    assert len(taken) == (min(limit, 60) or 60)
    assert taken == sorted(taken)


def test_take_of_a_smaller_limit_is_a_subset_and_another_seed_takes_others() -> None:
    images = [SourceImage(i, str(i)) for i in range(9000)]
    assert set(take(images, 50, 1)) < set(take(images, 500, 1))
    assert set(take(images, 50, 1)) != set(take(images, 50, 2))
    mean = sum(image.image_id for image in take(images, 500, 1)) / 500
    assert 4100 < mean < 4900  # uniform over all batches: 4500 +- 3.5 standard errors


def test_take_refuses_a_negative_limit() -> None:
    with pytest.raises(ValueError, match="limit"):
        take([], -1, 0)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "file", "train"), [("coco_dev", "instances_dev", 201), ("coco_pool", "boxes_all", 1537)]
)
def test_real_sets_list_alike_from_folder_and_json(scenes_root: Path, name: str, file: str, train: int) -> None:
    root = scenes_root / name
    from_json = list(list_coco(root / f"{file}.json", root / "images"))
    assert sorted(image.path for image in from_json) == [image.path for image in list_folder(root / "images")]
    assert len(restrict(from_json, root / "splits.json", "train")) == train
