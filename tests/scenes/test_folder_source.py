"""Folders of images, on a disk and in a bucket: order, ids, links, and names that cannot be."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orl_ray.folders import Folder
from orl_ray.scenes.entries import BadEntry, SourceImage, path_id
from orl_ray.scenes.folder_source import list_folder


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12345")


def paths(root, prefix=""):
    found = list(list_folder(Folder(root), prefix))
    assert all(isinstance(entry, SourceImage) for entry in found)
    return [entry.path for entry in found]


def reasons(root):
    return {e.path: e.reason for e in list_folder(Folder(root)) if isinstance(e, BadEntry)}


def test_images_of_all_formats_in_either_case_are_listed_by_path(tmp_path):
    names = ["b.jpg", "a/z.PNG", "a/c/x.Jpeg", "a.webp", "d.gif", "e.BMP", "f.tif", "g.TIFF"]
    touch(tmp_path, *names, "notes.txt", "jpg", "a/readme.md")
    assert paths(tmp_path) == sorted(names)


@given(
    st.sets(st.lists(st.sampled_from(["a", "a.b", "a-", "B", "é"]), min_size=1, max_size=3).map("/".join), max_size=8)
)
def test_the_order_is_that_of_whole_paths(tmp_path_factory, stems):
    root = tmp_path_factory.mktemp("root")
    touch(root, *[stem + ".jpg" for stem in stems])
    assert paths(root) == sorted(stem + ".jpg" for stem in stems)


def test_hidden_files_and_folders_are_skipped(tmp_path):
    touch(tmp_path, ".hidden.jpg", ".cache/a.jpg", "._b.jpg", "b.jpg")
    assert paths(tmp_path) == ["b.jpg"]


def test_an_image_is_known_by_its_path_size_and_time(tmp_path):
    touch(tmp_path, "a/b.jpg")
    (entry,) = list_folder(Folder(tmp_path))
    stamp = str((tmp_path / "a" / "b.jpg").stat().st_mtime_ns)
    assert entry == SourceImage(path_id("a/b.jpg"), "a/b.jpg", 5, stamp)


def test_a_prefix_stands_before_paths_and_counts_for_ids(tmp_path):
    touch(tmp_path, "b.jpg")
    (entry,) = list_folder(Folder(tmp_path), "more/")
    assert (entry.path, entry.image_id) == ("more/b.jpg", path_id("more/b.jpg"))


def test_a_missing_folder_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="no image folder at"):
        list_folder(Folder(tmp_path / "nowhere"))


def test_links_that_leave_the_folder_are_bad_entries(tmp_path):
    touch(tmp_path, "outside.jpg", "other/x.jpg", "root/a.jpg", "root-twin/b.jpg")
    root = tmp_path / "root"
    (root / "file.jpg").symlink_to(tmp_path / "outside.jpg")
    (root / "twin.jpg").symlink_to(tmp_path / "root-twin" / "b.jpg")
    (root / "up").symlink_to("../other")
    (root / "ignored.txt").symlink_to(tmp_path / "outside.jpg")
    found = reasons(root)
    assert set(found) == {"file.jpg", "twin.jpg", "up"}
    assert all("leaves the source" in reason for reason in found.values())


def test_links_to_folders_inside_are_bad_entries_so_that_loops_cannot_hang_it(tmp_path):
    touch(tmp_path, "a/b.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert reasons(tmp_path) == {"a/loop": "is a link to a folder, whose images would be listed twice"}


def test_links_to_files_inside_and_a_root_that_is_a_link_are_fine(tmp_path):
    touch(tmp_path, "root/a.jpg")
    (tmp_path / "root" / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "root" / "broken.jpg").symlink_to("not_there.jpg")
    (tmp_path / "link").symlink_to("root")
    assert paths(tmp_path / "link") == ["a.jpg", "b.jpg", "broken.jpg"]


def test_what_is_no_file_is_a_bad_entry(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reasons(tmp_path) == {"pipe.jpg": "is not a regular file"}


def test_names_that_are_not_utf8_are_bad_entries_with_a_spelling_that_is(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
        (tmp_path / os.fsdecode(b"d\xff")).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    touch(tmp_path, os.fsdecode(b"d\xff/inside.jpg"), os.fsdecode(b"note\xff.txt"))
    assert reasons(tmp_path) == {"caf\\xe9.jpg": "the name is not UTF-8", "d\\xff/": "the name is not UTF-8"}


def test_two_unicode_spellings_of_a_name_have_one_id(tmp_path):
    touch(tmp_path, unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg"))
    entries = list(list_folder(Folder(tmp_path)))
    if len(entries) < 2:
        pytest.skip("this file system normalises names")
    assert entries[0].image_id == entries[1].image_id
