"""Reading a source at ingest: every kind, in the order of the listing; bad images told, bad weather raised."""

import errno
import os
import tempfile
from dataclasses import asdict

import pytest
from scene_sources import PARQUET_GROUP, coco_json, config_of, parquet_file_bytes, tar_bytes

from orl_ray.folders import CredentialsError, Folder, StorageRefusedError, StorageUnavailableError
from orl_ray.scenes import parquet_source, source_reading
from orl_ray.scenes.decode import BadImageError
from orl_ray.scenes.entries import SourceImage
from orl_ray.scenes.source_reading import read_entries, read_file
from orl_ray.scenes.sources import entries
from orl_ray.storage import Store

KINDS = ["folder", "coco", "parquet", "webdataset"]
COUNT = 11


def image(number):
    return bytes([number]) * (100 + number)


def fill(folder, kind):
    """Write a source; return its config."""
    if kind in ("folder", "coco"):
        names = [f"sub {number % 3}/ü{number}.jpg" for number in range(COUNT)]
        for number, name in enumerate(names):
            folder.write(name, image(number))
        if kind == "coco":
            folder.write("images.json", coco_json([(7 * n % COUNT, name) for n, name in enumerate(names)]).encode())
            return config_of(kind=kind, images=str(folder), annotations=f"{folder}/images.json")
    elif kind == "parquet":
        folder.write("b.parquet", parquet_file_bytes([image(number) for number in range(5)]))
        folder.write("deep/a.parquet", parquet_file_bytes([image(number) for number in range(5, COUNT)]))
    else:
        folder.write("b.tar", tar_bytes({f"{number}.jpg": image(number) for number in range(5)}))
        folder.write("deep/a.tar", tar_bytes({f"{number}.jpg": image(number) for number in range(5, COUNT)}))
    return config_of(kind=kind, images=str(folder))


def listed(config, store=None):
    """Return the rows of a listing by rising id, which is another order than that of the source."""
    found = entries(config, store or Store("/none"))
    return sorted((asdict(entry) for entry in found if isinstance(entry, SourceImage)), key=lambda row: row["image_id"])


def row_of(path, image_id=1, **more):
    return asdict(SourceImage(image_id, path, **more))


def read(config, rows):
    """Return what was found for each row: bytes, or the reason as text."""
    found = list(read_entries(config, Store("/none"), rows))
    assert [row for row, _ in found] == rows
    return [str(data) if isinstance(data, BadImageError) else data for _, data in found]


def number_of(data):
    assert data == image(data[0])
    return data[0]


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    return Folder(tmp_path / "source") if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture
def local(tmp_path):
    (tmp_path / "source").mkdir()
    return Folder(tmp_path / "source")


class TestEveryKind:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_image_comes_in_the_order_of_the_listing(self, place, kind):
        config = fill(place, kind)
        rows = listed(config)
        assert len(rows) == COUNT
        numbers = [number_of(data) for data in read(config, rows)]
        assert sorted(numbers) == list(range(COUNT))
        for row, number in zip(rows, numbers, strict=True):
            inner = row["offset"] + (0 if row["container"] == "b.parquet" else 5) if kind == "parquet" else number
            assert inner == number
            assert kind == "parquet" or f"{number}.jpg" in row["path"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_some_rows_in_any_order_give_those(self, place, kind):
        config = fill(place, kind)
        rows = listed(config)
        chosen = [rows[at] for at in (7, 2, 9, 3)]
        everything = dict(zip([row["image_id"] for row in rows], read(config, rows), strict=True))
        assert read(config, chosen) == [everything[row["image_id"]] for row in chosen]

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_rows_give_nothing(self, local, kind):
        assert read(fill(local, kind), []) == []

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_gone_is_missing_and_the_rest_still_comes(self, place, kind):
        config = fill(place, kind)
        rows = listed(config)
        gone = {"folder": "sub 1/ü4.jpg", "coco": "sub 1/ü4.jpg", "parquet": "b.parquet", "webdataset": "b.tar"}[kind]
        place.delete(gone)
        for row, data in zip(rows, read(config, rows), strict=True):
            if gone in (row["path"], row["container"]):
                assert data == "missing file"
            else:
                number_of(data)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_service_that_does_not_answer_is_raised_and_never_a_bad_image(self, place, kind, monkeypatch):
        config = fill(place, kind)
        rows = listed(config)

        def unavailable(*_):
            raise StorageUnavailableError("503 Slow Down")

        for name in ("read", "read_range", "open"):
            monkeypatch.setattr(Folder, name, unavailable)
        with pytest.raises(StorageUnavailableError, match="Slow Down"):
            read(config, rows)

    @pytest.mark.parametrize("kind", ["parquet", "webdataset"])
    def test_a_service_that_stops_answering_inside_a_container_is_raised(self, local, kind, monkeypatch):
        config = fill(local, kind)
        rows, opened = listed(config), []
        for name in ("read_range", "open"):
            plain = getattr(Folder, name)

            def once(folder, *arguments, plain=plain):
                opened.append(arguments)
                if len(opened) > 1:
                    raise StorageUnavailableError("reset")
                return plain(folder, *arguments)

            monkeypatch.setattr(Folder, name, once)
        with pytest.raises(StorageUnavailableError):
            read(config, rows)
        assert len(opened) == 2

    def test_several_folders_are_told_apart_by_their_prefix(self, tmp_path):
        for name, number in (("x", 1), ("y", 2)):
            Folder(tmp_path / name).write("a.jpg", image(number))
        config = config_of(kind="folder", images=f"{tmp_path}/x,{tmp_path}/y")
        rows = [row_of("y/a.jpg", 1), row_of("x/a.jpg", 2)]
        assert [number_of(data) for data in read(config, rows)] == [2, 1]


class TestFiles:
    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("none.jpg", "missing file"),
            ("none/below.jpg", "missing file"),
            ("folder", "missing file"),
            ("folder.jpg", "missing file"),
            ("file.jpg/below.jpg", "missing file"),
            ("pipe.jpg", "missing file"),
            ("broken.jpg", "missing file"),
            ("x" * 300 + ".jpg", "file name too long"),
            ("round.jpg", "too many levels of symbolic links"),
            ("out.jpg", "leaves the source"),
            ("away/secret.jpg", "leaves the source"),
            ("../secret.jpg", "leaves the source"),
        ],
        ids=lambda value: value[:20],
    )
    def test_what_can_never_be_read_is_a_bad_image_with_a_reason(self, local, tmp_path, path, reason):
        root = local.local
        (root / "folder.jpg").mkdir(parents=True)
        (root / "folder").mkdir()
        (root / "file.jpg").write_bytes(b"x")
        os.mkfifo(root / "pipe.jpg")
        (tmp_path / "secret.jpg").write_bytes(b"secret")
        links = {"broken": root / "none", "round": root / "round.jpg", "out": tmp_path / "secret.jpg"}
        for name, target in links.items():
            (root / f"{name}.jpg").symlink_to(target)
        (root / "away").symlink_to(tmp_path)
        found = read_file(local, path)
        assert isinstance(found, BadImageError)
        assert str(found) == reason

    def test_links_inside_the_source_and_a_source_that_is_a_link_are_read(self, local, tmp_path):
        local.write("deep/a.jpg", b"inside")
        (local.local / "b.jpg").symlink_to("deep/a.jpg")
        (local.local / "also").symlink_to("deep")
        (tmp_path / "alias").symlink_to(local.local)
        for path in ("b.jpg", "also/a.jpg"):
            assert read_file(Folder(tmp_path / "alias"), path) == b"inside"

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_may_not_be_read_is_a_bad_image(self, local, kind, monkeypatch):
        config = fill(local, kind)
        rows = listed(config)

        def forbidden(*_):
            raise PermissionError(errno.EACCES, "Permission denied")

        for name in ("read", "read_range", "open"):
            monkeypatch.setattr(Folder, name, forbidden)
        assert set(read(config, rows)) == {"permission denied"}

    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_disk_or_a_machine_that_fails_is_raised(self, local, kind, number, monkeypatch):
        config = fill(local, kind)
        rows = listed(config)

        def failing(*_):
            raise OSError(number, os.strerror(number))

        for name in ("read", "read_range", "open"):
            monkeypatch.setattr(Folder, name, failing)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            read(config, rows)
        assert caught.value.errno == number

    def test_a_few_files_of_a_remote_folder_are_on_their_way_and_no_more(self, monkeypatch):
        asked = []

        def slow(number):
            asked.append(number)
            return number

        found = source_reading._read_ahead(range(100), slow, 4)
        for number in range(50):
            assert next(found) == number
            assert len(asked) <= number + 1 + 2 * 4
        found.close()
        assert len(asked) < 70

    def test_a_local_folder_is_read_one_by_one(self, local, monkeypatch):
        config, asked, plain = fill(local, "folder"), [], Folder.read
        monkeypatch.setattr(Folder, "read", lambda *arguments: (asked.append(arguments), plain(*arguments))[1])
        found = read_entries(config, Store("/none"), listed(config))
        next(found)
        assert len(asked) == 1


class TestTars:
    def test_a_tar_that_was_cut_since_gives_what_stands_before_the_cut(self, local):
        config = fill(local, "webdataset")
        rows = listed(config)
        cut = next(row for row in rows if row["path"] == "b.tar/3.jpg")["offset"] + 50
        os.truncate(local.local / "b.tar", cut)
        found = dict(zip([row["path"] for row in rows], read(config, rows), strict=True))
        for number in range(COUNT):
            data = found[f"{'b' if number < 5 else 'deep/a'}.tar/{number}.jpg"]
            if number in (3, 4):
                assert data == "truncated: the tar ends before"
            else:
                assert number_of(data) == number

    def test_a_tar_that_vanishes_half_way_keeps_the_images_that_were_read(self, local, monkeypatch):
        monkeypatch.setattr(source_reading, "_SPAN_BYTES", 2000)
        local.write("a.tar", tar_bytes({f"{number}.jpg": image(number) for number in range(COUNT)}))
        config = config_of(kind="webdataset", images=str(local))
        rows, plain = listed(config), Folder.read_range

        def vanishing(folder, *arguments):
            data = plain(folder, *arguments)
            folder.delete("a.tar")
            return data

        monkeypatch.setattr(Folder, "read_range", vanishing)
        found = read(config, rows)
        assert found.count("missing file") == COUNT - 2  # a span holds two images with their headers
        assert sorted(number_of(data) for data in found if data != "missing file") == [0, 1]

    def test_near_images_share_a_request_and_far_ones_do_not(self, local, monkeypatch):
        files = {"0.jpg": image(0), "1.jpg": image(1), "notes.txt": bytes(100_000), "2.jpg": image(2)}
        local.write("a.tar", tar_bytes(files))
        config = config_of(kind="webdataset", images=str(local))
        asked, plain = [], Folder.read_range
        monkeypatch.setattr(Folder, "read_range", lambda *arguments: (asked.append(arguments), plain(*arguments))[1])
        assert sorted(number_of(data) for data in read(config, listed(config))) == [0, 1, 2]
        assert len(asked) == 2
        assert sum(size for *_, size in asked) < 3000

    def test_a_request_is_bounded_whatever_the_size_of_the_tar(self, local, monkeypatch):
        monkeypatch.setattr(source_reading, "_SPAN_BYTES", 2000)
        local.write("a.tar", tar_bytes({f"{number}.jpg": image(number) for number in range(COUNT)}))
        local.write("b.tar", tar_bytes({"0.jpg": bytes([77]) * 5000}))  # an image may be larger: it comes alone
        config = config_of(kind="webdataset", images=str(local))
        asked, plain = [], Folder.read_range
        monkeypatch.setattr(Folder, "read_range", lambda *arguments: (asked.append(arguments), plain(*arguments))[1])
        assert len(read(config, listed(config))) == COUNT + 1
        sizes = sorted(size for *_, size in asked)
        assert sizes[-1] == 5000
        assert sizes[-2] <= 2000


class TestParquet:
    def test_a_row_that_is_null_or_behind_the_end_is_a_bad_image(self, local):
        local.write("a.parquet", parquet_file_bytes([image(0), None, image(2)]))
        config = config_of(kind="parquet", images=str(local))
        rows = listed(config)
        before = {row["offset"]: data for row, data in zip(rows, read(config, rows), strict=True)}
        assert before == {0: image(0), 1: "no image in this row", 2: image(2)}
        local.write("a.parquet", parquet_file_bytes([image(0)]))
        after = {row["offset"]: data for row, data in zip(rows, read(config, rows), strict=True)}
        assert after == {0: image(0), 1: "no image in this row", 2: "no image in this row"}

    def test_a_file_that_is_none_any_more_is_told_for_each_of_its_rows(self, place):
        config = fill(place, "parquet")
        rows = listed(config)
        place.write("b.parquet", b"PAR1 no more")
        for row, data in zip(rows, read(config, rows), strict=True):
            if row["container"] == "b.parquet":
                assert "Parquet file" in data
            else:
                number_of(data)

    def test_each_row_group_is_read_once_although_rows_come_by_id(self, local, monkeypatch):
        local.write("a.parquet", parquet_file_bytes([image(number) for number in range(COUNT)]))
        config = config_of(kind="parquet", images=str(local))
        groups, plain = [], parquet_source._group_images

        def counted(parquet, group, leaf, wanted):
            groups.append(group)
            return plain(parquet, group, leaf, wanted)

        monkeypatch.setattr(parquet_source, "_group_images", counted)
        read(config, listed(config))
        assert groups == list(range(-(-COUNT // PARQUET_GROUP)))


class TestTemporaryFiles:
    @pytest.fixture
    def spools(self, monkeypatch, tmp_path):
        """Collect the temporary files that are made, and where."""
        made, plain = [], tempfile.TemporaryFile

        def collected(**arguments):
            made.append(plain(**arguments, dir=tmp_path))
            return made[-1]

        monkeypatch.setattr(source_reading.tempfile, "TemporaryFile", collected)
        return made

    @pytest.mark.parametrize("kind", ["parquet", "webdataset"])
    def test_one_holds_the_images_of_the_part_and_no_more(self, local, kind, spools):
        config = fill(local, kind)
        rows = listed(config)[3:6]
        found = read_entries(config, Store("/none"), rows)
        first = next(found)[1]
        size = os.fstat(spools[0].fileno()).st_size
        rest = [data for _, data in found]
        spools[0].close()
        assert size <= len(first) + sum(map(len, rest))
        assert len(spools) == 1

    @pytest.mark.parametrize("kind", ["parquet", "webdataset"])
    def test_none_is_left_when_a_reader_stops_half_way(self, local, kind, spools, tmp_path):
        before = set(tmp_path.iterdir())
        config = fill(local, kind)
        found = read_entries(config, Store("/none"), listed(config))
        next(found)
        found.close()
        assert spools[0].closed
        assert set(tmp_path.iterdir()) == before

    @pytest.mark.parametrize("kind", ["folder", "coco"])
    def test_files_of_their_own_need_none(self, local, kind, spools):
        config = fill(local, kind)
        read(config, listed(config))
        assert spools == []


class TestCredentials:
    """What says nothing of a file must not send it to quarantine."""

    @pytest.mark.parametrize("error", [CredentialsError("expired"), StorageRefusedError("no region")])
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_service_that_does_not_accept_us_is_raised(self, local, monkeypatch, kind, error):
        config = fill(local, kind)
        rows = listed(config)

        def refused(*_):
            raise error

        for name in ("read", "read_range", "open"):
            monkeypatch.setattr(Folder, name, refused)
        with pytest.raises(type(error)):
            read(config, rows)

    @pytest.mark.parametrize("error", [CredentialsError("expired"), StorageRefusedError("no region")])
    @pytest.mark.parametrize("kind", ["parquet", "webdataset"])
    def test_nor_does_it_make_a_damaged_file_of_one_that_is_listed(self, local, monkeypatch, kind, error):
        config = fill(local, kind)

        def refused(*_):
            raise error

        monkeypatch.setattr(Folder, "open", refused)
        with pytest.raises(type(error)):
            list(entries(config, Store("/none")))

    def test_a_file_that_may_not_be_read_is_a_bad_image(self, local, monkeypatch):
        def denied(*_):
            raise PermissionError("403 AccessDenied")

        config = fill(local, "folder")
        rows = listed(config)
        monkeypatch.setattr(Folder, "read", denied)
        assert set(read(config, rows)) == {"permission denied"}
