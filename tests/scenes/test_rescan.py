"""Rescans: what is new is added behind what was listed, what changed or is gone is told, and nothing else moves."""

import os

import pytest
from scene_sources import coco_json, photograph, small_coco, small_store_of, write_photographs
from small_store import SmallStore

from orl_ray.pipeline import State
from orl_ray.scenes import listing_parts
from orl_ray.scenes import rescan as rescan_module
from orl_ray.scenes.listing import write_listing
from orl_ray.scenes.rescan import RescanReport, rescan

NAMES = [f"{number}.png" for number in range(6)]


class Source:
    """A source that was listed, and can be listed again."""

    def __init__(self, small):
        self.small, self.store = small, small.store
        self.records = write_listing(small.config, small.store, "key")

    def rescan(self, small=None):
        """List again; return the new records and the report, and count the new ones as listed from now on."""
        added, report = rescan((small or self.small).config, self.store, self.records, "key")
        self.records += added
        return added, report

    def paths(self, records):
        return [set(self.store.read_table("listing", record.key)["path"].to_pylist()) for record in records]

    def files(self):
        """Return path -> content of everything in the store."""
        root = self.store.root
        return {info.path: root.read(info.path) for info in root.files()}


@pytest.fixture
def folder(tmp_path):
    write_photographs(tmp_path / "photographs", NAMES)
    return tmp_path / "photographs"


@pytest.fixture
def source(tmp_path, folder):
    return Source(small_store_of(tmp_path / "store", kind="folder", images=folder))


@pytest.fixture
def coco(tmp_path, folder):
    """Return a source of a COCO JSON, and a way to change the JSON."""
    rows = [(10 + number, name) for number, name in enumerate(NAMES)]
    found = Source(small_coco(tmp_path / "coco", folder, rows))
    return found, lambda rows: (tmp_path / "coco" / "instances.json").write_text(coco_json(rows))


def counts(report):
    return report.added, report.gone, report.changed, report.bad


def test_a_source_that_did_not_change_gives_nothing_and_writes_nothing(source):
    before = source.files()
    added, report = source.rescan()
    assert added == []
    assert report == RescanReport()
    assert source.files() == before


def test_new_images_go_to_parts_behind_those_that_are_there_which_stay_byte_for_byte(source, folder):
    before = source.files()
    write_photographs(folder, [f"0-new-{number}.png" for number in range(5)])  # between those that are listed
    added, report = source.rescan()
    assert counts(report) == (5, 0, 0, 0)
    assert [(record.index, record.key, record.rows) for record in added] == [
        (2, "key-000002", 4),
        (3, "key-000003", 1),
    ]
    assert source.paths(added) == [{f"0-new-{number}.png" for number in range(4)}, {"0-new-4.png"}]
    after = source.files()
    assert {path: after[path] for path in before} == before
    assert report.examples["added"] == [f"0-new-{number}.png" for number in range(5)]


def test_a_second_rescan_finds_nothing_new(source, folder):
    write_photographs(folder, ["new.png", "newer.png"])
    (folder / "bad.png").symlink_to("/etc/hostname")
    assert counts(source.rescan()[1]) == (2, 0, 0, 1)
    added, report = source.rescan()
    assert (added, counts(report)) == ([], (0, 0, 0, 0))


def test_rescans_number_on(source, folder):
    for number in range(3):
        write_photographs(folder, [f"new-{number}.png"])
        assert [record.index for record in source.rescan()[0]] == [2 + number]


def test_what_is_gone_is_told_and_stays_listed(source, folder):
    for name in ("1.png", "4.png"):
        (folder / name).unlink()
    before = source.files()
    added, report = source.rescan()
    assert (added, counts(report)) == ([], (0, 2, 0, 0))
    assert set(report.examples["gone"]) == {"1.png", "4.png"}
    assert source.files() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: (path.unlink(), path.write_bytes(photograph(99))),
    ],
    ids=["size", "time", "another file"],
)
def test_what_changed_is_told_and_left_alone(source, folder, change):
    change(folder / "3.png")
    before = source.files()
    added, report = source.rescan()
    assert (added, counts(report)) == ([], (0, 0, 1, 0))
    assert report.examples["changed"] == ["3.png"]
    assert source.files() == before


def test_a_file_that_only_lost_its_cached_attributes_is_no_change(source, folder):
    os.utime(folder / "3.png", ns=(1, (folder / "3.png").stat().st_mtime_ns))  # read, not written
    assert counts(source.rescan()[1]) == (0, 0, 0, 0)


def test_an_object_that_changed_under_its_name_is_told_by_its_etag(tmp_path, bucket):
    for name in NAMES:
        bucket.write(name, photograph(0))
    source = Source(small_store_of(tmp_path / "store", kind="folder", images=bucket))
    assert counts(source.rescan()[1]) == (0, 0, 0, 0)
    data = photograph(0)
    bucket.write("2.png", data[:-1] + b"x")  # of the same size
    bucket.write("6.png", data)
    bucket.delete("4.png")
    added, report = source.rescan()
    assert counts(report) == (1, 1, 1, 0)
    assert report.examples == {"added": ["6.png"], "gone": ["4.png"], "changed": ["2.png"]}
    assert source.paths(added) == [{"6.png"}]


class TestCoco:
    def test_an_id_that_names_another_file_has_changed(self, coco):
        source, write = coco
        write([(10, "1.png"), *((10 + number, name) for number, name in enumerate(NAMES) if number)])
        added, report = source.rescan()
        assert (added, counts(report)) == ([], (0, 0, 1, 0))
        assert report.examples["changed"] == ["1.png"]

    def test_the_order_of_the_json_is_no_change(self, coco):
        source, write = coco
        write([(10 + number, name) for number, name in enumerate(NAMES)][::-1])
        assert counts(source.rescan()[1]) == (0, 0, 0, 0)

    def test_new_ids_are_added_wherever_they_stand_and_missing_ones_are_gone(self, coco):
        source, write = coco
        write([(5, "0.png"), *((10 + number, name) for number, name in enumerate(NAMES) if number != 2), (99, "2.png")])
        added, report = source.rescan()
        assert counts(report) == (2, 1, 0, 0)
        assert report.examples["gone"] == ["2.png"]
        assert source.store.read_table("listing", added[0].key)["image_id"].to_pylist() == [5, 99]

    def test_a_duplicate_that_came_is_quarantined_once_and_the_first_stays(self, coco):
        source, write = coco
        write([*((10 + number, name) for number, name in enumerate(NAMES)), (12, "5.png")])
        added, report = source.rescan()
        assert counts(report) == (0, 0, 0, 1)
        (row,) = source.store.quarantine("listing", added[0].key).to_pylist()
        assert (row["path"], row["reason"]) == ("5.png", "duplicate id: 2.png has 12 already")
        assert counts(source.rescan()[1]) == (0, 0, 0, 0)


def test_bad_entries_that_were_told_are_not_told_again_and_new_ones_are(tmp_path, folder):
    (folder / "link.png").symlink_to("/etc/hostname")
    (folder / "2a.png").write_bytes(b"x")
    (folder / "2b.png").symlink_to(tmp_path / "elsewhere.png")
    source = Source(small_store_of(tmp_path / "store", kind="folder", images=folder))
    assert sum(record.quarantined for record in source.records) == 2
    (folder / "other.png").symlink_to("/etc/passwd")
    added, report = source.rescan()
    assert counts(report) == (0, 0, 0, 1)
    assert [(record.index, record.rows, record.quarantined) for record in added] == [(3 - 1, 0, 1)]
    assert source.store.quarantine("listing", added[0].key)["path"].to_pylist() == ["other.png"]


def test_many_old_bad_entries_cut_no_empty_parts(tmp_path, folder, monkeypatch):
    for number in range(7):
        (folder / f"a{number}.png").symlink_to("/etc/hostname")
    source = Source(small_store_of(tmp_path / "store", kind="folder", images=folder))
    monkeypatch.setattr(listing_parts, "_MOST_BAD", 2)
    write_photographs(folder, ["z.png"])
    assert source.paths(source.rescan()[0]) == [{"z.png"}]


def test_with_a_limit_the_draw_over_the_grown_source_adds_what_it_takes_and_drops_nothing(tmp_path):
    folder = tmp_path / "photographs"
    write_photographs(folder, [f"a{number}.png" for number in range(30)])
    source = Source(small_store_of(tmp_path / "store", kind="folder", images=folder, limit=10))
    before = set.union(*source.paths(source.records))
    assert len(before) == 10
    assert counts(source.rescan()[1]) == (0, 0, 0, 0)  # what the draw left out is not new
    write_photographs(folder, [f"b{number}.png" for number in range(30)])
    added, report = source.rescan()
    new = set.union(*source.paths(added))
    fresh = Source(small_store_of(tmp_path / "fresh", kind="folder", images=folder, limit=10))
    assert new == set.union(*fresh.paths(fresh.records)) - before
    assert 0 < report.added == len(new) < 10
    assert (report.gone, report.changed) == (0, 0)


def test_examples_are_few_and_people_see_that_there_are_more(source, folder, monkeypatch):
    monkeypatch.setattr(rescan_module, "_EXAMPLES", 2)
    for name in NAMES[:3]:
        (folder / name).unlink()
    write_photographs(folder, ["new.png"])
    _, report = source.rescan()
    assert report.lines()[:2] == ["rescan: 1 images added, 3 gone, 0 changed, 0 bad entries", "  added: new.png"]
    assert report.lines()[2].startswith("  gone: ")
    assert report.lines()[2].endswith(", ...")
    assert len(report.examples["gone"]) == 2


def test_a_source_that_is_not_there_is_an_error_and_not_a_source_without_images(source, folder):
    folder.rename(folder.with_name("away"))
    with pytest.raises(ValueError, match="no image folder at"):
        source.rescan()


class TestPlan:
    @pytest.fixture
    def grown(self, tmp_path, folder):
        """Return a store whose source has grown by two parts since its scenes were made."""
        small = small_store_of(tmp_path / "store", kind="folder", images=folder)
        small.make("scenes")
        old, key = small.records("listing"), small.plan("listing").key
        write_photographs(folder, [f"0-new-{number}.png" for number in range(5)])
        added, _ = rescan(small.config, small.store, old, key)
        small.store.write_manifest("listing", key, [*old, *added])
        return small

    def missing(self, small, name):
        return [part.index for part in small.plan(name).missing]

    def test_only_the_new_parts_are_missing_downstream(self, grown):
        assert grown.plan("listing").state is State.DONE
        assert self.missing(grown, "packed_scenes") == [2, 3]
        before = grown.store.present("packed_scenes")
        grown.make("packed_scenes")
        assert self.missing(grown, "scenes") == [2, 3]
        assert before < grown.store.present("packed_scenes")
        assert len(grown.store.present("packed_scenes")) == 4

    def test_the_parts_that_were_there_keep_their_content(self, grown):
        before = {record.key: record for record in grown.records("packed_scenes")}
        grown.make("scenes")
        after = {record.key: record for record in grown.records("packed_scenes")}
        assert len(before) == 2
        assert {key: after[key] for key in before} == before

    def test_stages_over_the_whole_collection_are_made_again(self, grown, tmp_path):
        grown.make("scenes")
        whole = SmallStore(grown.config, grown.store)
        assert whole.plan("near_duplicates").state is State.RUN
        assert sum(record.rows for record in whole.records("scenes")) == 11
