"""A photograph that is stored sideways with an EXIF orientation is the upright photograph, from ingest to report.

Two collections hold the same scenes, one upright, one stored under every EXIF orientation, both without loss. Whatever
is computed in one frame and used in another would make them differ.
"""

import numpy as np
import pytest
from PIL import ExifTags, Image
from small_store import SMALL, SmallStore

from orl_ray.pretraining.export import export_training_set
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.views import ViewMaker
from orl_ray.scenes.generated import render_scene

# How the upright pixels are stored so that the orientation brings them back: the inverse of each transformation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
COUNT = 16


def write_scene(path, number, orientation):
    upright = Image.fromarray(render_scene(3, "train", number, 96).image)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = upright if STORED[orientation] is None else upright.transpose(STORED[orientation])
    stored.save(path, "webp", lossless=True, exif=exif)


def made(folder, orientations):
    photographs = folder / "photographs"
    photographs.mkdir(parents=True)
    for number in range(COUNT):
        write_scene(photographs / f"{number:03d}.webp", number, orientations[number % len(orientations)])
    source = ("source.kind=folder", f"source.images={photographs}")
    small = SmallStore.new(folder / "store", *source, small=[s for s in SMALL if not s.startswith("generated.")])
    small.make()
    return small


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    return made(tmp_path_factory.mktemp("upright"), [1])


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    return made(tmp_path_factory.mktemp("turned"), list(STORED))


def training_set(small, folder):
    manifests = {name: small.plan(name).key for name in ("scenes", "rois", "correspondences")}
    export_training_set(small.config, small.store, manifests, folder)
    return TrainingSet.open(folder)


def test_the_two_collections_are_stored_differently(upright, turned):
    hashes = [[row["content_hash"] for row in small.rows("scenes")] for small in (upright, turned)]
    assert sum(a == b for a, b in zip(*hashes, strict=True)) == COUNT // len(STORED)


@pytest.mark.parametrize(
    "artifact", ["proposals", "rois", "image_embeddings", "neighbors", "roi_embeddings", "correspondences"]
)
def test_boxes_vectors_and_pairs_are_those_of_the_upright_photographs(upright, turned, artifact):
    ours, theirs = (
        [{name: entry["hash"] for name, entry in record.files.items()} for record in small.records(artifact)]
        for small in (upright, turned)
    )
    assert ours == theirs


def test_sizes_are_upright(upright, turned):
    columns = ("image_id", "path", "width", "height")
    rows = [[tuple(row[name] for name in columns) for row in small.rows("scenes")] for small in (upright, turned)]
    assert rows[0] == rows[1]
    for _, path, width, height in rows[0]:
        assert (height, width) == render_scene(3, "train", int(path[:3]), 96).image.shape[:2]


def test_training_views_are_cut_from_the_upright_photographs(upright, turned, tmp_path):
    terms = ("global", "intra", "inter")
    makers = [
        ViewMaker(training_set(small, tmp_path / name), 0, "object_level", terms, 32, 16)
        for name, small in (("upright", upright), ("turned", turned))
    ]
    for position in range(COUNT):
        ours, theirs = (maker.crops(0, position) for maker in makers)
        for term in terms:
            assert all(np.array_equal(a, b) for a, b in zip(ours[term], theirs[term], strict=True))


def test_report_pictures_show_the_upright_photographs(upright, turned):
    ours, theirs = (small.records("report")[0].files for small in (upright, turned))
    pictures = {name for name in ours if name.endswith(".jpg")}
    assert any(name.startswith("pairs-") for name in pictures)
    assert {name: ours[name]["hash"] for name in pictures} == {name: theirs[name]["hash"] for name in pictures}
