"""Packing a part: each image once with what is known of it, bad ones to quarantine, and a quarantine tried again."""

import numpy as np
import pyarrow as pa
import pytest
from scene_sources import photograph, small_coco, small_store_of, write_photographs
from small_store import make_stage

from orl_ray import schema
from orl_ray.execution import RunSummary, _plan_retries, _replan
from orl_ray.folders import Folder, StorageUnavailableError
from orl_ray.graph import main_job
from orl_ray.scenes import packing, packs
from orl_ray.scenes.decode import BadImageError, decode
from orl_ray.scenes.near_duplicates import fingerprint
from orl_ray.scenes.packs import read_pack
from orl_ray.storage import TABLE, Store, digest

NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture
def folder(tmp_path):
    write_photographs(tmp_path / "photographs", NAMES)
    return tmp_path / "photographs"


def coco(tmp_path, folder, names=NAMES, **source):
    """Return a small store of a COCO source with the ids 100, 99, ..."""
    rows = [(100 - number, name) for number, name in enumerate(names)]
    return small_coco(tmp_path / "coco", folder, rows, **{"part_size": 10, **source})


def packed(small):
    """Pack everything; return path -> row, and path -> reason of what is in quarantine."""
    small.make("packed_scenes")
    return found(small)


def found(small):
    rows = {row["path"]: row for row in small.rows("packed_scenes")}
    tables = [small.store.quarantine("packed_scenes", record.key) for record in small.records("packed_scenes")]
    return rows, {row["path"]: row["reason"] for table in tables for row in table.to_pylist()}


def packed_bytes(small):
    return {
        row["path"]: data
        for record in small.records("packed_scenes")
        for row, data in read_pack(small.store, record.key)
    }


class TestLostMounts:
    """A mount that goes while a part is read must not look like missing images."""

    def reading(self, monkeypatch, folder, lost):
        """Let images be lost while they are read, from the third one on."""
        read, count = packing.read_entries, [0]

        def going(*arguments):
            for row, data in read(*arguments):
                count[0] += 1
                if count[0] == 3:
                    for path in lost:
                        (folder / path).unlink()
                yield row, data

        monkeypatch.setattr(packing, "read_entries", going)

    def test_a_mount_that_is_lost_in_the_middle_fails_the_part(self, tmp_path, folder, monkeypatch):
        small = coco(tmp_path, folder)
        small.make("listing")
        self.reading(monkeypatch, folder, NAMES)
        with pytest.raises(FileNotFoundError, match="could be read a moment ago"):
            small.make("packed_scenes")
        assert small.store.present("packed_scenes") == set()

    def test_rights_that_are_lost_in_the_middle_fail_the_part(self, tmp_path, folder, monkeypatch):
        small = coco(tmp_path, folder)
        small.make("listing")
        (folder / "5.png").write_bytes(b"no picture")  # the first that is read need not decode
        read, denied = packing.read_entries, BadImageError("permission denied")

        def losing(config, store, rows):
            rows = list(rows)
            if len(rows) == 1:
                yield rows[0], denied
                return
            for number, (row, data) in enumerate(read(config, store, rows)):
                yield row, data if number == 0 else denied

        monkeypatch.setattr(packing, "read_entries", losing)
        with pytest.raises(
            FileNotFoundError, match=r"could be read a moment ago, and cannot any more \(permission denied"
        ):
            small.make("packed_scenes")
        assert small.store.present("packed_scenes") == set()

    def test_a_few_images_that_go_meanwhile_are_missing_images(self, tmp_path, folder, monkeypatch):
        small = coco(tmp_path, folder)
        small.make("listing")
        self.reading(monkeypatch, folder, ["0.png", "1.png"])
        rows, bad = packed(small)
        assert (len(rows), set(bad.values())) == (4, {"missing file"})

    def test_a_folder_of_which_nothing_may_be_read_is_no_collection_of_bad_images(self, tmp_path, folder, monkeypatch):
        small = coco(tmp_path, folder)
        small.make("listing")
        denied = [(row, BadImageError("permission denied")) for row in small.rows("listing")]
        monkeypatch.setattr(packing, "read_entries", lambda *_: iter(denied))
        with pytest.raises(FileNotFoundError, match=r"permission denied.*are its permissions right"):
            small.make("packed_scenes")
        assert small.store.present("packed_scenes") == set()


class TestPacking:
    def test_every_row_says_what_is_known_of_the_image_and_its_bytes_are_kept(self, tmp_path, folder):
        small = coco(tmp_path, folder, part_size=4)
        rows, bad = packed(small)
        assert (list(rows), bad) == (["3.png", "2.png", "1.png", "0.png", "5.png", "4.png"], {})
        for path, row in rows.items():
            data = (folder / path).read_bytes()
            image = decode(data, 10**8)
            assert row["image_id"] == 100 - int(path[0])
            assert (row["width"], row["height"]) == (30 + int(path[0]), 20)
            assert row["content_hash"] == digest(data)
            assert row["part"] == int(path[0]) // 4
            assert (row["perceptual_hash"], row["thumbnail"]) == fingerprint(image)
        assert packed_bytes(small) == {path: (folder / path).read_bytes() for path in NAMES}
        assert all(table.schema == schema.PACKED_SCENES for table in small.tables("packed_scenes"))

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda path: path.write_bytes(b""), "zero bytes"),
            (lambda path: path.write_bytes(b"no image"), "not an image"),
            (lambda path: path.write_bytes(path.read_bytes()[:-30]), "truncated"),
            (lambda path: (path.unlink(), path.mkdir()), "missing file"),
            (lambda path: path.unlink(), "missing file"),
            (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "leaves the source"),
        ],
        ids=["empty", "foreign", "cut", "folder", "gone", "link"],
    )
    def test_an_image_that_cannot_be_had_is_left_out_with_a_reason(self, tmp_path, folder, damage, reason):
        small = coco(tmp_path, folder)
        damage(folder / "2.png")
        rows, bad = packed(small)
        assert set(rows) == set(NAMES) - {"2.png"}
        assert list(bad) == ["2.png"]
        assert reason in bad["2.png"]
        assert small.quarantined("packed_scenes")[0][0] == 98

    def test_an_image_above_the_pixel_limit_is_left_out(self, tmp_path, folder):
        rows, bad = packed(coco(tmp_path, folder, max_pixels=640))  # 2.png has 640 pixels
        assert set(rows) == {"0.png", "1.png", "2.png"}
        assert set(bad) == {"3.png", "4.png", "5.png"}
        assert all("limit" in reason for reason in bad.values())

    def test_a_part_of_which_nothing_decodes_is_empty(self, tmp_path, folder):
        small = coco(tmp_path, folder, max_pixels=1, part_size=4)
        rows, bad = packed(small)
        assert (rows, set(bad)) == ({}, set(NAMES))
        assert [len(table) for table in small.tables("packed_scenes")] == [0, 0]
        small.make("scenes")
        assert small.rows("scenes") == []

    def test_a_source_that_is_not_mounted_is_no_collection_of_bad_images(self, tmp_path, folder):
        small = coco(tmp_path, folder)
        small.make("listing")
        for name in NAMES:
            (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match="is the folder mounted"):
            small.make("packed_scenes")
        assert small.store.present("packed_scenes") == set()

    def test_a_service_that_does_not_answer_fails_the_part_and_quarantines_nothing(self, tmp_path, folder, monkeypatch):
        small = coco(tmp_path, folder)
        small.make("listing")
        read = Folder.read

        def unavailable(place, path):
            if path == "3.png":
                raise StorageUnavailableError("503")
            return read(place, path)

        monkeypatch.setattr(Folder, "read", unavailable)
        with pytest.raises(StorageUnavailableError):
            small.make("packed_scenes")
        assert small.store.present("packed_scenes") == set()
        monkeypatch.undo()
        assert packed(small)[1] == {}

    def test_copies_in_several_parts_are_all_packed(self, tmp_path, folder):
        for name in ("1.png", "5.png"):
            (folder / name).write_bytes((folder / "0.png").read_bytes())
        rows, _ = packed(coco(tmp_path, folder, part_size=3))
        assert len({rows[name]["content_hash"] for name in ("0.png", "1.png", "5.png")}) == 1
        assert {rows[name]["part"] for name in ("0.png", "1.png", "5.png")} == {0, 1}

    def test_packing_elsewhere_gives_the_same_content(self, tmp_path, folder):
        contents = set()
        for name in ("a", "b"):
            small = small_store_of(tmp_path / name, kind="folder", images=folder)
            small.make("packed_scenes")
            contents.add(small.plan("packed_scenes").content_hash)
        assert len(contents) == 1

    def test_one_pack_is_in_memory_at_a_time(self, tmp_path, folder, monkeypatch):
        names = [f"{number}.png" for number in range(30)]
        write_photographs(folder, names)
        limit = 3 * len(photograph(29))
        monkeypatch.setattr(packs, "PACK_BYTES", limit)
        small, held, written, read = coco(tmp_path, folder, names, part_size=100), 0, [], packing.read_entries

        def counted(*arguments):
            nonlocal held
            for row, data in read(*arguments):
                held += len(data)
                assert held - sum(written) <= limit + len(data)
                yield row, data

        write = Store.write_part_file

        def noted(store, artifact, key, name, data, **more):
            written.append(len(data) if name != TABLE and artifact == "packed_scenes" else 0)
            return write(store, artifact, key, name, data, **more)

        monkeypatch.setattr(packing, "read_entries", counted)
        monkeypatch.setattr(Store, "write_part_file", noted)
        packed(small)
        assert len([size for size in written if size]) >= 5
        assert max(written) <= limit
        assert held == sum(written) == sum((folder / name).stat().st_size for name in names)


def plan_retries(small):
    """Plan as ``--retry-quarantined`` does; return stage name -> plan, and what is left to try."""
    summary = RunSummary("run")
    _replan(small.config, main_job(), small.store, summary)
    _plan_retries(small.store, summary)
    _replan(small.config, main_job(), small.store, summary)
    return {p.stage.name: p for p in summary.plans}, summary.again


def retry(small):
    """Try the quarantine again; return path -> row and path -> reason, as they are then."""
    make_stage(small.config, small.store, plan_retries(small)[0]["packed_scenes"])
    return found(small)


class TestRetry:
    @pytest.fixture
    def small(self, tmp_path, folder):
        """Return a store of two parts, in whose first part two images are in quarantine."""
        (folder / "1.png").write_bytes(b"broken")
        (folder / "2.png").unlink()
        made = coco(tmp_path, folder, part_size=4)
        rows, bad = packed(made)
        assert (set(rows), set(bad)) == ({"0.png", "3.png", "4.png", "5.png"}, {"1.png", "2.png"})
        return made

    def test_a_mended_image_joins_in_its_place_and_what_is_still_bad_stays_in_quarantine(self, small, folder):
        (folder / "1.png").write_bytes(photograph(1))
        rows, bad = retry(small)
        assert list(rows) == ["3.png", "1.png", "0.png", "5.png", "4.png"]
        assert bad == {"2.png": "missing file"}
        assert packed_bytes(small)["1.png"] == photograph(1)

    def test_what_was_packed_is_kept_even_when_its_source_is_gone_or_changed(self, small, folder):
        before = packed_bytes(small)
        (folder / "1.png").write_bytes(photograph(1))
        (folder / "0.png").unlink()
        (folder / "3.png").write_bytes(photograph(33))
        rows, bad = retry(small)
        assert {path: packed_bytes(small)[path] for path in before} == before
        assert (set(rows), set(bad)) == ({*before, "1.png"}, {"2.png"})

    def test_only_the_quarantine_is_read_from_the_source(self, small, monkeypatch):
        asked, read = [], packing.read_entries

        def noted(config, store, rows):
            asked.extend(row["path"] for row in rows)
            return read(config, store, rows)

        monkeypatch.setattr(packing, "read_entries", noted)
        retry(small)
        assert sorted(asked) == ["1.png", "2.png"]

    def test_everything_mended_empties_the_quarantine(self, small, folder):
        for number in (1, 2):
            (folder / f"{number}.png").write_bytes(photograph(number))
        rows, bad = retry(small)
        assert (set(rows), bad) == (set(NAMES), {})
        assert plan_retries(small)[1] == set()

    def test_the_content_hash_changes_and_later_parts_are_made_again_for_this_part_alone(self, small, folder):
        small.make("scenes")
        before = [record.content_hash for record in small.records("packed_scenes")]
        (folder / "1.png").write_bytes(photograph(1))
        retry(small)
        after = [record.content_hash for record in small.records("packed_scenes")]
        assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
        assert [part.index for part in small.plan("scenes").missing] == [0]
        small.make("scenes")
        assert [row["path"] for row in small.rows("scenes")] == ["3.png", "1.png", "0.png", "5.png", "4.png"]

    def test_nothing_mended_changes_no_content(self, small):
        small.make("scenes")
        before = small.plan("packed_scenes").content_hash
        retry(small)
        assert small.plan("packed_scenes").content_hash == before
        assert small.plan("scenes").missing == ()

    def test_the_old_part_stays_whole_until_the_new_record_is_there(self, small, folder, monkeypatch):
        (key,) = (record.key for record in small.records("packed_scenes") if record.quarantined)
        before = {row["path"]: data for row, data in read_pack(small.store, key)}
        table = small.store.read_table("packed_scenes", key)
        (folder / "1.png").write_bytes(photograph(1))
        write = Store.write_json

        def interrupted(store, path, value):
            if path == f"packed_scenes/{key}.json":
                raise KeyboardInterrupt
            write(store, path, value)

        monkeypatch.setattr(Store, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retry(small)
        monkeypatch.undo()
        assert small.store.read_table("packed_scenes", key).equals(table)
        assert {row["path"]: data for row, data in read_pack(small.store, key)} == before
        assert set(retry(small)[1]) == {"2.png"}

    def test_a_reader_of_the_old_part_finds_its_files_after_the_new_one_is_there(self, small, folder):
        (key,) = (record.key for record in small.records("packed_scenes") if record.quarantined)
        wanted = {row["path"]: data for row, data in read_pack(small.store, key)}
        record = small.store.record("packed_scenes", key)
        (folder / "1.png").write_bytes(photograph(1))
        retry(small)
        place = small.store.part_folder("packed_scenes", key)
        files = {name: place.read(entry.get("stored", name)) for name, entry in record.files.items()}
        assert {name: digest(data) for name, data in files.items()} == {
            name: entry["hash"] for name, entry in record.files.items()
        }
        rows = pa.parquet.read_table(pa.BufferReader(files[TABLE])).to_pylist()
        (pack,) = (data for name, data in files.items() if name != TABLE)
        assert {row["path"]: pack[row["offset"] : row["offset"] + row["bytes"]] for row in rows} == wanted

    def test_a_source_that_is_not_mounted_leaves_the_part_as_it_was(self, small, folder):
        before = packed_bytes(small)
        for name in NAMES:
            (folder / name).unlink(missing_ok=True)
        rows, bad = retry(small)
        assert packed_bytes(small) == before
        assert set(rows) == set(before)
        assert bad == {"1.png": "missing file", "2.png": "missing file"}

    def test_one_old_pack_is_in_memory_at_a_time(self, tmp_path, folder, monkeypatch):
        names = [f"{number}.png" for number in range(20)]
        write_photographs(folder, names)
        (folder / "7.png").write_bytes(b"broken")
        monkeypatch.setattr(packs, "PACK_BYTES", 3 * len(photograph(19)))
        small = coco(tmp_path, folder, names, part_size=100)
        packed(small)
        (folder / "7.png").write_bytes(photograph(7))
        events, read, add = [], Store.read_file, packs.PackWriter.add

        def noted(store, artifact, key, name):
            events.append("read" if name.endswith(".bin") else "")
            return read(store, artifact, key, name)

        def added(writer, data):
            events.append("add")
            return add(writer, data)

        monkeypatch.setattr(Store, "read_file", noted)
        monkeypatch.setattr(packs.PackWriter, "add", added)
        rows, bad = retry(small)
        assert (len(rows), bad) == (20, {})
        used = [event for event in events if event]
        reads = np.flatnonzero([event == "read" for event in used])
        assert len(reads) >= 6
        assert (np.diff(reads) > 1).all()  # images of one pack are packed before the next one is fetched


class TestPlanOfRetries:
    def test_only_parts_with_a_quarantine_are_made_again_and_what_follows_waits(self, tmp_path, folder):
        (folder / "5.png").write_bytes(b"broken")
        small = coco(tmp_path, folder, part_size=2)
        small.make("scenes")
        key = small.plan("packed_scenes").key
        plans, again = plan_retries(small)
        assert [part.index for part in plans["packed_scenes"].missing] == [2]
        assert again == {part.key for part in plans["packed_scenes"].missing}
        assert plans["packed_scenes"].reason == "1 parts to try again"
        assert [record.index for record in plans["packed_scenes"].records] == [0, 1]
        assert plans["scenes"].state == "waits"
        assert plans["listing"].state == "done"
        assert small.store.manifest("packed_scenes", key) is None  # it names what the part held before

    def test_without_a_quarantine_nothing_is_to_be_done_and_the_manifest_stays(self, tmp_path, folder):
        small = coco(tmp_path, folder)
        small.make("scenes")
        plans, again = plan_retries(small)
        assert again == set()
        assert {plans[name].state for name in ("listing", "packed_scenes", "scenes")} == {"done"}
        assert small.store.manifest("packed_scenes", plans["packed_scenes"].key) is not None

    def test_the_quarantine_of_the_listing_is_not_tried_again(self, tmp_path, folder):
        small = coco(tmp_path, folder, [*NAMES, "/etc/hostname.png"])
        small.make("scenes")
        assert small.records("listing")[0].quarantined == 1
        assert plan_retries(small)[1] == set()

    def test_a_retry_that_was_broken_off_is_found_by_a_plain_run(self, tmp_path, folder):
        (folder / "5.png").write_bytes(b"broken")
        small = coco(tmp_path, folder, part_size=2)
        small.make("scenes")
        plan_retries(small)  # the manifest is gone, and then the run is killed
        assert small.plan("packed_scenes").state == "done"
        assert [record.index for record in small.records("packed_scenes")] == [0, 1, 2]
        assert small.plan("scenes").state == "done"
