"""The node's cache of packs: the very bytes, checked, bounded, fetched once, shared between processes."""

import multiprocessing
import threading
from unittest import mock

import pytest

from orl_ray.folders import Folder
from orl_ray.pretraining.pack_cache import Pack, PackCache
from orl_ray.scenes.packs import ARTIFACT, PackWriter
from orl_ray.storage import Store, StoreError, digest

SIZE = 1000


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return a store with four packs of two images of half a thousand bytes each, one a part."""
    monkeypatch.setattr("orl_ray.scenes.packs.PACK_BYTES", SIZE)
    made = Store(tmp_path / "store")
    made.prepare()
    for number in range(4):
        writer = PackWriter(made, f"part{number}")
        for half in range(2):
            writer.add(content(number, half))
        made.write_part(ARTIFACT, f"part{number}", number, {}, rows=2, written=writer.finish())
    return made


def content(number, half):
    return bytes([10 * number + half]) * (SIZE // 2)


def packs_of(store):
    return [
        Pack(f"part{number}", next(iter(store.record(ARTIFACT, f"part{number}").files)), SIZE) for number in range(4)
    ]


def cache_of(store, folder, packs=4):
    return PackCache(folder, store, packs_of(store), packs * SIZE)


def read(cache, number, half, *, whole=True):
    data = content(number, half)
    found = cache.read(number, half * (SIZE // 2), SIZE // 2, digest(data), whole=whole)
    assert found == data


def held(folder):
    return {path.name.partition("-")[0] for path in folder.glob("*.bin")}


@pytest.fixture
def whole_reads():
    with mock.patch.object(Store, "read_file", autospec=True, side_effect=Store.read_file) as reads:
        yield reads


def test_images_come_back_and_a_pack_is_fetched_once(store, tmp_path, whole_reads):
    cache = cache_of(store, tmp_path / "cache")
    for _ in range(2):
        for number in range(4):
            for half in range(2):
                read(cache, number, half)
    assert whole_reads.call_count == 4


def test_no_more_than_the_limit_is_kept_and_the_longest_unused_goes(store, tmp_path, whole_reads):
    cache = cache_of(store, tmp_path / "cache", packs=2)
    for number in (0, 1, 0, 2):  # 1 has not been used for longest when 2 comes
        read(cache, number, 0)
    assert held(tmp_path / "cache") == {"part0", "part2"}
    read(cache, 1, 1)  # and is fetched again
    assert whole_reads.call_count == 4
    assert len(held(tmp_path / "cache")) == 2


def test_an_image_wanted_alone_is_read_by_a_range_where_not_everything_fits(store, tmp_path, whole_reads):
    cache = cache_of(store, tmp_path / "cache", packs=3)
    with mock.patch.object(Folder, "read_range", autospec=True, side_effect=Folder.read_range) as ranged:
        read(cache, 1, 1, whole=False)
        assert (ranged.call_count, whole_reads.call_count) == (1, 0)
        read(cache, 1, 0)
        read(cache, 1, 1, whole=False)  # it is here now
        assert (ranged.call_count, whole_reads.call_count) == (1, 1)
    assert held(tmp_path / "cache") == {"part1"}


def test_where_everything_fits_the_pack_of_a_lone_image_is_kept(store, tmp_path):
    read(cache_of(store, tmp_path / "cache"), 2, 0, whole=False)
    assert held(tmp_path / "cache") == {"part2"}


@pytest.mark.parametrize("whole", [True, False])
def test_a_changed_byte_in_the_store_is_an_error(store, tmp_path, whole):
    pack = packs_of(store)[1]
    path = store.part_folder(ARTIFACT, pack.key).local / pack.name
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    cache = cache_of(store, tmp_path / "cache", packs=3)
    cache.expect([1])  # in the background it goes wrong silently, and again when it is read
    with pytest.raises(StoreError, match="changed since it was written"):
        read(cache, 1, 0, whole=whole)
    cache._ahead.shutdown(wait=True)
    assert held(tmp_path / "cache") == set()


def test_what_is_expected_is_fetched_in_the_background(store, tmp_path, whole_reads):
    cache = cache_of(store, tmp_path / "cache")
    cache.expect([3, 1])
    cache.expect([1, 3])
    cache._ahead.shutdown(wait=True)
    assert held(tmp_path / "cache") == {"part1", "part3"}
    assert whole_reads.call_count == 2


def test_many_threads_fetch_a_pack_once_and_read_on_while_it_is_evicted(store, tmp_path, whole_reads):
    cache = cache_of(store, tmp_path / "cache", packs=4)
    threads = [threading.Thread(target=read, args=(cache, 2, 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole_reads.call_count == 1
    small = cache_of(store, tmp_path / "small", packs=1)

    def walk():
        for turn in range(60):
            read(small, turn % 4, turn % 2)

    failures = []

    def walk_and_tell():
        try:
            walk()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=walk_and_tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(held(tmp_path / "small")) == 1


def _read_all(root, folder):
    store = Store(root)
    with mock.patch.object(Store, "read_file", autospec=True, side_effect=Store.read_file) as reads:
        cache = cache_of(store, folder)
        for number in range(4):
            read(cache, number, 1)
    return reads.call_count


def test_processes_of_a_node_fetch_each_pack_once_between_them(store, tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        counts = pool.starmap(_read_all, [(store.root.uri, tmp_path / "cache")] * 2)
    assert sum(counts) == 4
