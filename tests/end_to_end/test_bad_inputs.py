"""Every kind of bad image and bad entry, in one collection: handled or quarantined with its reason; the run goes on."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from small_store import SMALL, SmallStore

from orl_ray.execution import TooManyBadImagesError, _check_quarantine
from orl_ray.scenes.generated import render_scene

GOOD = 24


def encoded(number, side=96, **options):
    file = io.BytesIO()
    Image.fromarray(render_scene(5, "train", number, side).image).save(file, **{"format": "jpeg", **options})
    return file.getvalue()


def with_mode(mode, suffix, **options):
    image = Image.fromarray(render_scene(5, "train", 90, 64).image)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, format=suffix, **options)
    return file.getvalue()


def bomb():
    """Return a PNG of 30,000 x 30,000 pixels in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def animation():
    frames = [Image.fromarray(render_scene(5, "train", n, 64).image).convert("P") for n in (91, 92)]
    file = io.BytesIO()
    frames[0].save(file, format="gif", save_all=True, append_images=frames[1:])
    return file.getvalue()


def one_pixel():
    file = io.BytesIO()
    Image.new("RGB", (1, 1), (200, 30, 30)).save(file, format="png")
    return file.getvalue()


HANDLED = {
    "one-pixel.png": one_pixel(),
    "cmyk.jpg": with_mode("CMYK", "jpeg"),
    "grey16.png": with_mode("I;16", "png"),
    "palette.png": with_mode("P", "png"),
    "alpha.png": with_mode("RGBA", "png"),
    "web.webp": with_mode("RGB", "webp"),
    "moving.gif": animation(),
    "großes Bild - 写真 #1 %41.jpg": encoded(93),
    "nested/deeper/UPPER.JPG": encoded(94),
}
BAD = {
    "empty.jpg": (b"", "zero bytes"),
    "cut.jpg": (encoded(95)[:-400], "truncated"),
    "text.jpg": (b"this is no photograph\n" * 20, "not an image"),
    "bomb.png": (bomb(), "900 megapixels, limit"),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    files = {f"good-{number:03d}.jpg": encoded(number) for number in range(GOOD)}
    files |= HANDLED | {name: data for name, (data, _) in BAD.items()}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    large = Image.fromarray(render_scene(5, "train", 96, 600).image).resize((6000, 4000))
    large.save(folder / "large.jpg", quality=80)
    return folder


def small_settings():
    return [setting for setting in SMALL if not setting.startswith("generated.")]


def finished(folder, *settings, until="report"):
    small = SmallStore.new(folder, *settings, small=small_settings())
    small.make(until)
    return small


@pytest.fixture(scope="module")
def from_folder(photographs, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.jpg").write_bytes(encoded(97))
    (photographs / "leaving.jpg").symlink_to(outside / "secret.jpg")
    return finished(tmp_path_factory.mktemp("store") / "s", "source.kind=folder", f"source.images={photographs}")


def reasons(small):
    return {row["path"]: row["reason"] for name in ("listing", "packed_scenes") for row in quarantine_rows(small, name)}


def quarantine_rows(small, artifact):
    return [row for r in small.records(artifact) for row in small.store.quarantine(artifact, r.key).to_pylist()]


@pytest.mark.parametrize("name", [*HANDLED, "large.jpg"])
def test_unusual_images_are_scenes_like_others(from_folder, name):
    assert name in {row["path"] for row in from_folder.rows("scenes")}
    assert name not in reasons(from_folder)


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_quarantined_with_their_reason(from_folder, name):
    assert BAD[name][1] in reasons(from_folder)[name]
    assert name not in {row["path"] for row in from_folder.rows("scenes")}


def test_a_link_that_leaves_the_folder_is_never_read(from_folder):
    assert "leave" in reasons(from_folder)["leaving.jpg"]
    assert "leaving.jpg" not in {row["path"] for row in from_folder.rows("scenes")}


def test_nothing_is_lost(from_folder, photographs):
    files = {str(path.relative_to(photographs)) for path in photographs.rglob("*") if not path.is_dir()}
    scenes = {row["path"] for row in from_folder.rows("scenes")}
    assert scenes | reasons(from_folder).keys() == files
    assert not scenes & reasons(from_folder).keys()


def test_the_run_ends_with_a_report_that_lists_the_quarantine(from_folder):
    key = from_folder.records("report")[0].key
    page = from_folder.store.read_file("report", key, "index.html").decode()
    assert "zero bytes" in page
    assert "leaving.jpg" in page


@pytest.mark.parametrize("name", ["one-pixel.png", "large.jpg", "grey16.png"])
def test_every_scene_has_a_region_inside_it(from_folder, name):
    row = next(row for row in from_folder.rows("scenes") if row["path"] == name)
    boxes = next(roi["boxes"] for roi in from_folder.rows("rois") if roi["image_id"] == row["image_id"])
    assert boxes
    for x, y, width, height in boxes:
        assert 0 <= x < x + width <= row["width"]
        assert 0 <= y < y + height <= row["height"]


class TestJson:
    """The same photographs, listed by a COCO JSON with every kind of bad entry."""

    @pytest.fixture(scope="class")
    def from_json(self, photographs, tmp_path_factory):
        folder = tmp_path_factory.mktemp("coco")
        images = [{"id": number, "file_name": f"good-{number:03d}.jpg"} for number in range(GOOD)]
        images += [
            {"file_name": "no-id.jpg"},
            {"id": 500},
            {"id": 3, "file_name": "good-again.jpg"},
            {"id": 501, "file_name": "missing.jpg"},
            {"id": 502, "file_name": "../elsewhere.jpg"},
            {"id": 503, "file_name": "/etc/hostname"},
            {"id": "504", "file_name": "text-id.jpg"},
            {"id": 505, "file_name": "leaving.jpg"},
        ]
        annotations = [
            {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [1, 1, 5, 5], "iscrowd": 0}
            for number in range(GOOD)
        ]
        annotations.append({"id": 900, "image_id": 2, "category_id": 1, "bbox": [90, 90, 500, 500], "iscrowd": 0})
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        }
        (folder / "instances.json").write_text(json.dumps(document))
        source = ("source.kind=coco", f"source.images={photographs}", f"source.annotations={folder / 'instances.json'}")
        return finished(folder / "store", *source)

    def test_the_good_entries_are_the_scenes(self, from_json):
        assert [row["image_id"] for row in from_json.rows("scenes")] == list(range(GOOD))

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("no-id.jpg", "id"),
            ("good-again.jpg", "duplicate id: good-003.jpg has 3 already"),
            ("missing.jpg", "missing file"),
            ("../elsewhere.jpg", "leaves the source"),
            ("/etc/hostname", "absolute"),
            ("text-id.jpg", "id"),
            ("leaving.jpg", "leave"),
        ],
    )
    def test_each_bad_entry_is_quarantined_with_its_reason(self, from_json, path, reason):
        assert reason in reasons(from_json)[path]

    def test_an_entry_without_a_file_name_is_counted(self, from_json):
        rows = [row for row in quarantine_rows(from_json, "listing") if row["image_id"] == 500]
        assert len(rows) == 1
        assert "file_name" in rows[0]["reason"]

    def test_a_box_outside_its_image_keeps_its_label(self, from_json):
        result = json.loads(
            from_json.store.read_file("evaluation", from_json.records("evaluation")[0].key, "result.json")
        )
        assert "not_scored" not in result


class TestLimits:
    def checked(self, tmp_path, bad, images, limit="0.01"):
        folder = tmp_path / "photographs"
        folder.mkdir()
        data = [encoded(number, 48) for number in range(4)]
        for number in range(images):
            (folder / f"{number:04d}.jpg").write_bytes(b"" if number < bad else data[number % 4])
        source = ("source.kind=folder", f"source.images={folder}", f"execution.max_bad_fraction={limit}")
        small = finished(tmp_path / "store", *source, "source.part_size=50", until="packed_scenes")
        _check_quarantine(
            small.config, [small.plan(name) for name in ("listing", "packed_scenes", "scenes")], small.store
        )

    def test_two_percent_of_bad_images_stop_the_run_with_the_reason(self, tmp_path):
        with pytest.raises(TooManyBadImagesError, match=r"2 of 100 images are in quarantine.*zero bytes \(2\)"):
            self.checked(tmp_path, bad=2, images=100)

    def test_one_percent_does_not(self, tmp_path):
        self.checked(tmp_path, bad=1, images=100)

    def test_a_lost_mount_stops_the_run_and_commits_nothing(self, tmp_path, photographs):
        folder = tmp_path / "mount"
        folder.mkdir()
        for number in range(30):
            (folder / f"{number}.jpg").write_bytes(encoded(number, 48))
        small = finished(tmp_path / "store", "source.kind=folder", f"source.images={folder}", until="listing")
        for path in folder.iterdir():
            path.unlink()
        with pytest.raises(FileNotFoundError, match="is the folder mounted"):
            small.make("packed_scenes")
        assert small.store.present("packed_scenes") == set()
