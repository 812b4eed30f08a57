"""The deep check: what the source holds now, image by image, against what was packed."""

import os

import pytest
from scene_sources import photograph, small_coco, write_photographs

from orl_ray.folders import Folder, StorageUnavailableError
from orl_ray.scenes import source_check
from orl_ray.scenes.source_check import check_part, check_source

NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture
def folder(tmp_path):
    write_photographs(tmp_path / "photographs", NAMES)
    (tmp_path / "photographs" / "5.png").write_bytes(b"no image")
    return tmp_path / "photographs"


@pytest.fixture
def small(tmp_path, folder):
    """Return a packed source, one image of which was quarantined."""
    made = small_coco(tmp_path / "coco", folder, [(number, name) for number, name in enumerate(NAMES)], part_size=10)
    made.make("packed_scenes")
    assert made.quarantined("packed_scenes")[0][0] == 5
    return made


def check(small):
    (part,) = small.plan("packed_scenes").wanted
    return check_part(small.config, small.store, part)


def test_a_source_as_it_was_is_the_same_and_what_was_quarantined_is_not_compared(small):
    assert check(small) == {"same": NAMES[:5]}


def test_each_outcome_is_told_by_path(small, folder, tmp_path):
    (folder / "0.png").write_bytes(photograph(50))
    (folder / "1.png").unlink()
    (folder / "2.png").unlink()
    (folder / "2.png").symlink_to("/etc/hostname")
    assert check(small) == {"changed": ["0.png"], "gone": ["1.png"], "unreadable": ["2.png"], "same": NAMES[3:5]}


def test_the_bytes_count_and_not_the_time(small, folder):
    data = bytearray((folder / "0.png").read_bytes())
    times = (folder / "0.png").stat()
    data[-20] ^= 1
    (folder / "0.png").write_bytes(data)
    os.utime(folder / "0.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.utime(folder / "1.png", ns=(1, 1))
    assert check(small) == {"changed": ["0.png"], "same": NAMES[1:5]}


def test_a_service_that_does_not_answer_is_no_verdict_on_images(small, folder, monkeypatch):
    read = Folder.read

    def unavailable(place, path):
        if place == Folder(folder):
            raise StorageUnavailableError("503")
        return read(place, path)

    monkeypatch.setattr(Folder, "read", unavailable)
    with pytest.raises(StorageUnavailableError):
        check(small)


def test_nothing_is_written(small, folder):
    before = {info.path: info.stamp for info in small.store.root.files()}
    (folder / "0.png").unlink()
    check(small)
    assert {info.path: info.stamp for info in small.store.root.files()} == before


def test_a_quick_rescan_reads_no_image():
    assert check_source(None, deep=False) == []


def test_people_are_told_counts_and_examples(monkeypatch):
    class Run:
        """A run that counts what it reports."""

        def __init__(self):
            self.progress, self.done = self, 0

        def advance(self, count):
            self.done += count

    monkeypatch.setattr(source_check, "_NAMED", 2)
    parts = [{"same": ["a", "b"], "changed": ["c"]}, {"changed": ["d", "e"], "gone": ["f"]}]
    monkeypatch.setattr(source_check, "_check_parts", lambda _: iter(parts))
    run = Run()
    assert check_source(run, deep=True) == [
        "deep check: 6 images compared with their source, 2 the same",
        "deep check: 3 changed: c, d, ...",
        "deep check: 1 gone: f",
        "deep check: the store keeps the images as they were packed; a new store takes the new ones",
    ]
    assert run.done == 6
