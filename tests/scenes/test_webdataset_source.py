"""Tars of images: where each lies, whatever wrote the tar; keys, bad members, and tars that are damaged."""

import gzip
import io
import tarfile

import pytest

from orl_ray.folders import Folder
from orl_ray.scenes.entries import BadEntry, SourceImage, path_id
from orl_ray.scenes.webdataset_source import list_webdataset

LONG = "a" * 90 + "/" + "b" * 180 + ".jpg"


def write(folder, name, members, kind=tarfile.PAX_FORMAT):
    """Write a tar of {name: bytes, or a TarInfo's type}."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w", format=kind, errors="surrogateescape") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            if isinstance(content, bytes) and len(content) > 1:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content, "0.jpg"
                tar.addfile(info)
    return Folder(folder)


def images(found):
    return [entry for entry in found if isinstance(entry, SourceImage)]


def bad(found):
    return {entry.path: entry.reason for entry in found if isinstance(entry, BadEntry)}


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_offset_and_size_give_the_very_bytes_of_every_image(tmp_path, kind):
    members = {"0.jpg": b"first" * 100, "0.json": b"{}", "é/日本.png": b"second" * 999, LONG: b"third", "1.JPG": b"4th"}
    folder = write(tmp_path, "deep/a.tar", members, kind)
    found = list(list_webdataset(folder))
    data = (tmp_path / "deep" / "a.tar").read_bytes()
    assert [entry.path for entry in found] == [f"deep/a.tar/{name}" for name in members if not name.endswith("json")]
    for entry in found:
        assert entry.container == "deep/a.tar"
        assert entry.image_id == path_id(entry.path)
        inner = entry.path.removeprefix("deep/a.tar/")
        assert data[entry.offset : entry.offset + entry.bytes] == members[inner]


def test_large_members_are_skipped_over(tmp_path):
    members = {f"{number}.jpg": bytes([number]) * 1_500_000 for number in range(4)}
    folder = write(tmp_path, "a.tar", members)
    data = (tmp_path / "a.tar").read_bytes()
    assert [data[e.offset] for e in list_webdataset(folder)] == [0, 1, 2, 3]


def test_tars_come_by_path_with_a_prefix_and_other_files_are_left_alone(tmp_path):
    for name in ("b.tar", "a/c.tar", ".hidden.tar", "notes.txt"):
        write(tmp_path, name, {"0.jpg": b"x1"})
    assert [e.path for e in list_webdataset(Folder(tmp_path), "more/")] == ["more/a/c.tar/0.jpg", "more/b.tar/0.jpg"]


def test_a_key_chooses_among_the_files_of_a_sample(tmp_path):
    names = ["s/0.jpg", "s/0.left.png", "s/0.mask.png", "s/0.txt", "s/1.JPG", "s/1.x.jpg"]
    folder = write(tmp_path, "a.tar", dict.fromkeys(names, b"xx"))
    assert [e.path for e in list_webdataset(folder, "", "jpg")] == ["a.tar/s/0.jpg", "a.tar/s/1.JPG"]
    assert [e.path for e in list_webdataset(folder, "", "left.png")] == ["a.tar/s/0.left.png"]


def test_members_that_cannot_be_images_are_bad_entries(tmp_path):
    members = {
        "./0.jpg": b"good",
        "link.jpg": tarfile.SYMTYPE,
        "hard.jpg": tarfile.LNKTYPE,
        "../up.jpg": b"up",
        "/abs.jpg": b"abs",
        "._0.jpg": b"left by a tool",
        "folder.jpg": tarfile.DIRTYPE,
        "caf\udce9.jpg": b"latin",
    }
    found = list(list_webdataset(write(tmp_path, "a.tar", members, tarfile.GNU_FORMAT)))
    assert [entry.path for entry in images(found)] == ["a.tar/0.jpg"]
    told = bad(found)
    assert "regular" in told["a.tar/link.jpg"]
    assert "regular" in told["a.tar/hard.jpg"]
    assert "leaves" in told["a.tar/../up.jpg"]
    assert "absolute" in told["a.tar//abs.jpg"]
    assert "Unicode" in told["a.tar/caf\\xe9.jpg"]
    assert len(told) == 5


def test_a_tar_without_the_blocks_at_its_end_is_whole(tmp_path):
    folder = write(tmp_path, "a.tar", {"0.jpg": b"x" * 512, "1.jpg": b"y" * 512})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:2048])
    found = list(list_webdataset(folder))
    assert len(images(found)) == 2
    assert not bad(found)


@pytest.mark.parametrize("cut", [3 * 512 + 100, 5 * 512 + 100, 5 * 512, 2 * 512 + 700])
def test_what_stands_before_a_cut_is_listed_and_the_cut_is_told(tmp_path, cut):
    members = {f"{number}.jpg": bytes([65 + number]) * 1000 for number in range(4)}  # three blocks each
    folder = write(tmp_path, "a.tar", members)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:cut])
    found = list(list_webdataset(folder))
    whole = [number for number in range(4) if number * 1536 + 512 + 1000 <= cut]
    assert [entry.path for entry in images(found)] == [f"a.tar/{number}.jpg" for number in whole]
    assert bad(found)


def test_a_header_that_is_overwritten_is_told(tmp_path):
    folder = write(tmp_path, "a.tar", {f"{number}.jpg": b"x" * 1000 for number in range(4)})
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[2 * 1536 : 2 * 1536 + 512] = b"\xff" * 512
    (tmp_path / "a.tar").write_bytes(data)
    found = list(list_webdataset(folder))
    assert len(images(found)) == 2
    assert "3072" in bad(found)["a.tar"]


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"z" * 2000])
def test_what_is_no_tar_is_one_bad_entry_and_the_others_are_listed(tmp_path, content):
    folder = write(tmp_path, "b.tar", {"0.jpg": b"xx"})
    (tmp_path / "a.tar").write_bytes(content)
    found = list(list_webdataset(folder))
    assert len(images(found)) == 1
    assert set(bad(found)) == {"a.tar"}


def test_a_compressed_tar_is_a_bad_entry(tmp_path):
    folder = write(tmp_path, "a.tar", {"0.jpg": b"xx"})
    (tmp_path / "a.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    assert set(bad(list_webdataset(folder))) == {"a.tar"}
