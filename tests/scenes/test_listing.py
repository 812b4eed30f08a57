"""The stage listing: which images there are, in which parts, and when a source is refused as a whole."""

import contextlib
import json
import threading
from types import SimpleNamespace

import pytest
from scene_sources import coco_json, photograph, small_coco, small_store_of, write_photographs
from small_store import SmallStore

from orl_ray import schema
from orl_ray.config import Config
from orl_ray.leases import Lease, holder
from orl_ray.scenes.entries import path_id
from orl_ray.scenes.listing import _odd_lines, alone_with_listing, write_listing
from orl_ray.storage import Store

NAMES = ["deep/5.png", *(f"{number}.png" for number in range(5))]


@pytest.fixture
def photographs(tmp_path):
    """Write a folder of six photographs, one of them in a sub-folder."""
    write_photographs(tmp_path / "photographs", NAMES)
    return tmp_path / "photographs"


def listed(small):
    """List a source; return the paths of each part's images and path -> reason of its quarantine."""
    records = write_listing(small.config, small.store, "key")
    tables = [small.store.read_table("listing", record.key) for record in records]
    bad = [small.store.quarantine("listing", record.key).to_pylist() for record in records]
    return [table["path"].to_pylist() for table in tables], [
        {row["path"]: row["reason"] for row in rows} for rows in bad
    ]


def test_a_folder_is_listed_by_path_into_parts_and_each_part_by_id(tmp_path, photographs):
    small = small_store_of(tmp_path / "store", kind="folder", images=photographs)
    records = write_listing(small.config, small.store, "key")
    assert [(record.index, record.key, record.rows) for record in records] == [
        (0, "key-000000", 4),
        (1, "key-000001", 2),
    ]
    for record, names in zip(records, (sorted(NAMES)[:4], sorted(NAMES)[4:]), strict=True):
        table = small.store.read_table("listing", record.key)
        assert table.schema == schema.LISTING
        assert table["path"].to_pylist() == sorted(names, key=path_id)
        assert table["image_id"].to_pylist() == sorted(map(path_id, names))


def test_a_folder_is_listed_with_the_size_and_time_of_each_file(tmp_path, photographs):
    small = small_store_of(tmp_path / "store", kind="folder", images=photographs, part_size=10)
    write_listing(small.config, small.store, "key")
    for row in small.store.read_table("listing", "key-000000").to_pylist():
        status = (photographs / row["path"]).stat()
        assert (row["bytes"], row["stamp"]) == (status.st_size, str(status.st_mtime_ns))


def test_a_bucket_is_listed_with_the_etag_of_each_object(tmp_path, bucket):
    for number in range(5):
        bucket.write(f"sub/{number}.png", photograph(number))
    small = small_store_of(tmp_path / "store", kind="folder", images=bucket)
    assert sorted(path for part in listed(small)[0] for path in part) == [f"sub/{number}.png" for number in range(5)]
    stamps = {info.path: info.stamp for info in bucket.files()}
    for row in small.store.read_table("listing", "key-000000").to_pylist():
        assert row["stamp"] == stamps[row["path"]] != ""


def test_coco_plus_is_train2017_then_unlabeled2017_in_parts_in_source_order(tmp_path):
    files = {"train2017": [(50, "b"), (51, "a"), (52, "c")], "unlabeled2017": [(3, "b"), (2, "a"), (50, "d"), (1, "e")]}
    for name, rows in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.json").write_text(coco_json(rows))
    small = small_store_of(
        tmp_path / "store",
        kind="coco",
        images=",".join(f"{tmp_path}/{name}" for name in files),
        annotations=",".join(f"{tmp_path}/{name}.json" for name in files),
        part_size=2,
    )
    parts, bad = listed(small)
    assert parts == [
        ["train2017/b", "train2017/a"],
        ["unlabeled2017/b", "train2017/c"],  # a part may span both; inside it, ids rise
        ["unlabeled2017/e", "unlabeled2017/a"],
    ]
    assert bad == [{}, {}, {"unlabeled2017/d": "duplicate id: train2017/b has 50 already"}]


def test_a_coco_json_is_listed_by_its_ids_and_its_split(tmp_path, photographs):
    (tmp_path / "splits.json").write_text(
        json.dumps({"train": ["0.png", "2.png", "1.png", "3.png"], "test": ["4.png"]})
    )
    rows = [(100 - number, f"{number}.png") for number in range(5)]
    small = small_coco(tmp_path / "coco", photographs, rows, splits=tmp_path / "splits.json")
    assert listed(small) == ([["3.png", "2.png", "1.png", "0.png"]], [{}])


def test_links_out_of_the_source_and_second_spellings_are_quarantined_where_they_stand(tmp_path, photographs):
    (tmp_path / "secret.png").write_bytes(b"x")
    (photographs / "1a.png").symlink_to(tmp_path / "secret.png")
    for name in ("e\u0301.png", "é.png"):
        (photographs / name).write_bytes(photograph(9))
    parts, bad = listed(small_store_of(tmp_path / "store", kind="folder", images=photographs))
    assert [len(part) for part in parts] == [4, 3]
    assert "leaves the source" in bad[0].pop("1a.png")
    assert "another Unicode spelling" in bad[1].pop("é.png")
    assert bad == [{}, {}]


def test_a_limit_takes_a_draw_that_hangs_on_the_seed(tmp_path):
    def drawn(seed):
        small = SmallStore.new(tmp_path / f"{seed}", "source.limit=7", f"seed={seed}", "source.part_size=4")
        parts, _ = listed(small)
        assert [len(part) for part in parts] == [4, 3]
        return {path for part in parts for path in part}

    assert len(drawn(0)) == len(drawn(1)) == 7
    assert drawn(0) != drawn(1)


def test_listing_again_elsewhere_gives_the_same_content(finished, tmp_path):
    again = SmallStore.new(tmp_path / "again")
    again.make("scenes")
    for name in ("listing", "packed_scenes", "scenes"):
        assert again.plan(name).content_hash == finished.plan(name).content_hash


class TestRefusal:
    def test_a_folder_without_images_says_what_to_name(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"no images found in .*empty: name another folder in source\.images"):
            listed(small_store_of(tmp_path / "store", kind="folder", images=tmp_path / "empty"))

    def test_a_source_of_bad_entries_alone_names_some_of_them(self, tmp_path):
        (tmp_path / "images").mkdir()
        for number in range(9):
            (tmp_path / "images" / f"{number}.png").symlink_to(tmp_path / "nowhere.png")
        small = small_store_of(tmp_path / "store", kind="folder", images=tmp_path / "images")
        with pytest.raises(ValueError, match="of its 9 entries none is an image, such as") as caught:
            listed(small)
        assert str(caught.value).count("leaves the source") == 5
        assert small.store.present("listing") == set()

    def test_a_source_with_no_more_images_than_neighbours_is_too_small(self, tmp_path, photographs):
        rows = [(1, "0.png"), (2, "1.png"), (3, "2.png"), (3, "3.png"), (4, "/etc/4.png")]
        with pytest.raises(ValueError, match=r"mining\.k is 3, but the source has only 3 images"):
            listed(small_coco(tmp_path / "coco", photographs, rows))

    def test_a_limit_that_leaves_too_few_images_is_told(self, tmp_path):
        with pytest.raises(ValueError, match="only 3 images"):
            listed(SmallStore.new(tmp_path, "source.limit=3"))

    def test_broken_labels_are_told_before_anything_is_listed(self, tmp_path, photographs):
        small = small_coco(tmp_path / "coco", photographs, [(number, f"{number}.png") for number in range(5)])
        annotations = [{"image_id": 1, "category_id": 9}]
        text = coco_json([(number, f"{number}.png") for number in range(5)], annotations=annotations)
        (tmp_path / "coco" / "instances.json").write_text(text)
        with pytest.raises(ValueError, match="unknown category_id 9"):
            listed(small)
        assert small.store.present("listing") == set()


def test_people_are_told_what_is_odd_about_a_source(tmp_path, photographs):
    rows = [*((number, f"{number}.png") for number in range(5)), (4, "5.png")]
    small = small_coco(tmp_path / "coco", photographs, rows, part_size=2)
    labels = {
        "annotations": [{"image_id": image_id, "category_id": 1} for image_id in (1, 77)],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "coco" / "instances.json").write_text(coco_json(rows, **labels))
    assert _odd_lines(write_listing(small.config, small.store, "key")) == [
        "1 of 6 entries of the source are in quarantine",
        "labels: 1 annotations of images that are not listed",
    ]


def test_a_run_waits_while_another_lists_the_same_source(tmp_path):
    store, told, waited = Store(tmp_path), [], []
    other = contextlib.ExitStack()
    other.enter_context(Lease(store, "listing/0123", promise=30, run_id="first"))

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            other.close()
        return False

    progress, stop = SimpleNamespace(console=SimpleNamespace(line=told.append)), SimpleNamespace(wait=wait)
    run = SimpleNamespace(
        store=store, plan=SimpleNamespace(key="0123"), config=Config(), run_id="second", progress=progress, stop=stop
    )
    with alone_with_listing(run):
        assert holder(store, "listing/0123") == "second"
    assert len(waited) == 3
    assert told == ["list the source: waits for another run that is at it"]
    assert holder(store, "listing/0123") is None


def test_a_run_that_is_stopped_waits_no_longer(tmp_path):
    store = Store(tmp_path)
    progress, stop = SimpleNamespace(console=SimpleNamespace(line=print)), threading.Event()
    run = SimpleNamespace(
        store=store, plan=SimpleNamespace(key="0123"), config=Config(), run_id="second", progress=progress, stop=stop
    )
    stop.set()
    with (
        Lease(store, "listing/0123", promise=30, run_id="first"),
        pytest.raises(InterruptedError),
        alone_with_listing(run),
    ):
        pass
