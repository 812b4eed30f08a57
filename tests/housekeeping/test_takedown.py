"""Taking images down: afterwards nothing of them is in the store, they do not come back, and the rest is as it was."""

import contextlib
import itertools
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_store import SMALL, SmallStore
from test_garbage import ARTIFACTS, assert_whole, record_run

from orl_ray.execution import _check_quarantine
from orl_ray.folders import Folder
from orl_ray.graph import main_job
from orl_ray.housekeeping import takedown
from orl_ray.housekeeping.takedown import find_traces, take_down
from orl_ray.pipeline import plan
from orl_ray.scenes.generated import render_scene
from orl_ray.scenes.packs import read_pack
from orl_ray.storage import Store

COUNT = 18
ROWS = ("packed_scenes", "scenes", "proposals", "rois", "image_embeddings", "shards", "neighbors", "roi_embeddings")


def photographs(folder, without=()):
    folder.mkdir()
    for number in set(range(COUNT)) - set(without):
        Image.fromarray(render_scene(7, "train", number, 64).image).save(folder / f"{number:02d}.png")
    return folder


def of_folder(store, source, *overrides):
    small = [setting for setting in SMALL if not setting.startswith("generated.")]
    return SmallStore.new(store, "source.kind=folder", f"source.images={source}", *overrides, small=small)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("takedown")
    small = of_folder(folder / "store", photographs(folder / "source"))
    small.make()
    record_run(small, "20260101-a")
    return small


@pytest.fixture
def small(made, tmp_path):
    return made.copy(tmp_path / "store")


def some(small):
    """Return the ids of two images in different parts, with their paths."""
    first, *_, last = small.tables("scenes")
    return [(table["image_id"][1].as_py(), table["path"][1].as_py()) for table in (first, last)]


def bytes_of(small, image_id):
    keys = [record.key for record in small.records("packed_scenes")]
    rows = itertools.chain.from_iterable(read_pack(small.store, key) for key in keys)
    return next(data for row, data in rows if row["image_id"] == image_id)


def places_of(store, image_id):
    """Return the files of a store with this id in any of their cells; every table is read whole."""
    found = []
    for path in store.root.local.rglob("*"):
        if path.suffix in (".parquet", ".arrow"):
            table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
            kept = [name for name in table.column_names if name not in ("vector", "thumbnail")]
            rows = table.select(kept).to_pylist()
            if any(
                cell == image_id or (isinstance(cell, list) and image_id in cell) for r in rows for cell in r.values()
            ):
                found.append(str(path.relative_to(store.root.local)))
    return found


def files_with(store, data):
    return [path for path in store.root.local.rglob("*") if path.is_file() and data in path.read_bytes()]


def test_bytes_rows_and_pictures_go_and_only_the_listing_still_knows_the_name(small):
    (one, path), (other, _) = some(small)
    data = bytes_of(small, one)
    assert files_with(small.store, data[100:])
    traces = take_down(small.store, ARTIFACTS, [one, other], "asked for")
    assert traces.found == {one, other}
    assert not files_with(small.store, data[100:200])
    for image_id in (one, other):
        assert {place.split("/")[0] for place in places_of(small.store, image_id)} == {"listing"}
    assert small.store.present("report") == set()
    assert {file.name for file in files_with(small.store, path.encode())} <= {"part.parquet"}
    assert_whole(small.store)


def test_looking_changes_nothing_and_finds_what_a_takedown_finds(small):
    before = {info.path: info.stamp for info in small.store.root.files()}
    image_id = some(small)[0][0]
    found = find_traces(small.store, ARTIFACTS, [image_id])
    assert {info.path: info.stamp for info in small.store.root.files()} == before
    assert set(ROWS) <= found.parts.keys()
    assert {"object_level", "image_level", "centroids", "evaluation"} - found.trained.keys() == {"evaluation"}
    assert take_down(small.store, ARTIFACTS, [image_id], "") == found


def test_parts_without_a_trace_stay(small):
    image_id = some(small)[0][0]
    untouched = [record for record in small.records("proposals") if record.index != 0]
    take_down(small.store, ARTIFACTS, [image_id], "")
    assert [small.store.record("proposals", record.key) for record in untouched] == untouched


def test_the_next_run_ends_as_if_the_image_had_never_been_there(tmp_path):
    settings = ("source.part_size=100", "seed=3")
    source = photographs(tmp_path / "source")
    small = of_folder(tmp_path / "store", source, *settings)
    small.make("correspondences")
    record_run(small, "20260101-a")
    ids = {row["path"]: row["image_id"] for row in small.rows("scenes")}
    take_down(small.store, ARTIFACTS, [ids["03.png"], ids["11.png"]], "")
    assert small.make("correspondences")[0] == "scenes"

    never = of_folder(tmp_path / "never", photographs(tmp_path / "fewer", without=(3, 11)), *settings)
    never.make("correspondences")
    for name in ("scenes", "proposals", "rois", "image_embeddings", "neighbors", "roi_embeddings", "correspondences"):
        assert small.plan(name).content_hash == never.plan(name).content_hash


def test_it_is_not_packed_again_by_another_listing(small):
    image_id = some(small)[0][0]
    take_down(small.store, ARTIFACTS, [image_id], "")
    again = of_folder(small.store.root.local, small.config.source.images, "source.part_size=5")
    again.make("scenes")
    assert sum(record.rows for record in again.records("scenes")) == COUNT - 1
    assert image_id not in {row["image_id"] for row in again.rows("scenes")}


def test_an_image_that_is_not_there_yet_is_kept_out(tmp_path, made):
    image_id = some(made)[0][0]
    small = of_folder(tmp_path / "store", made.config.source.images)
    assert take_down(small.store, ARTIFACTS, [image_id], "").found == set()
    small.make("scenes")
    assert image_id not in {row["image_id"] for row in small.rows("scenes")}


def test_it_counts_as_no_bad_image(small):
    (one, _), (other, _) = some(small)
    take_down(small.store, ARTIFACTS, [one, other], "")
    small.make("scenes")
    assert sum(record.quarantined for record in small.records("packed_scenes")) == 0
    assert sum(record.facts["taken_down"] for record in small.records("packed_scenes")) == 2
    _check_quarantine(small.config, plan(small.config, main_job(), small.store), small.store)


@pytest.mark.parametrize("weights", [False, True])
def test_what_was_trained_on_it_goes_where_that_is_asked_for(small, weights):
    take_down(small.store, ARTIFACTS, [some(small)[0][0]], "", weights=weights)
    assert bool(small.store.present("object_level")) is not weights
    assert bool(small.store.root.names("object_level/manifests")) is not weights


def test_weights_may_be_deleted_later_and_those_of_later_runs_stay(small):
    image_id = some(small)[0][0]
    old = {name: small.plan(name).key for name in ("image_level", "object_level")}
    first = take_down(small.store, ARTIFACTS, [image_id], "")
    small.make()
    record_run(small, "20260102-b")
    new = {name: small.plan(name).key for name in ("image_level", "object_level", "report")}
    second = take_down(small.store, ARTIFACTS, [image_id], "", weights=True)
    assert (second.trained, second.found, second.parts) == (first.trained, set(), {})
    assert {name: small.store.present(name) for name in new} == {name: {key} for name, key in new.items()}
    assert not old.keys() & {name for name, key in old.items() if key in small.store.present(name)}


def test_near_duplicates_are_grouped_again_without_it(tmp_path):
    source = photographs(tmp_path / "source")
    for number in (2, 5):
        (source / f"{number:02d}b.png").write_bytes((source / f"{number:02d}.png").read_bytes())
    small = of_folder(tmp_path / "store", source)
    small.make("neighbors")
    record_run(small, "20260101-a")
    assert small.records("near_duplicates")[0].facts["images"] == 4
    image_id = next(row["image_id"] for row in small.rows("scenes") if row["path"] == "02b.png")
    take_down(small.store, ARTIFACTS, [image_id], "")
    small.make("neighbors")
    assert small.records("near_duplicates")[0].facts == {"groups": 1, "images": 2, "largest": 2, "pairs": 1}


REMAINS = {
    "a pack of a part that was never recorded": "packed_scenes/0123/images-00000-0123.bin",
    "a table of a part that was never recorded": "rois/0123/part.parquet",
    "an old pack beside a new one": "packed_scenes/{packed}/images-00000-0123.bin",
    "a file that was being written": "packed_scenes/{packed}/.images-00000-0123.bin.89ab.tmp",
}


@pytest.mark.parametrize("path", REMAINS.values(), ids=REMAINS)
def test_what_killed_writers_left_of_it_goes_too(small, path):
    image_id = some(small)[0][0]
    data = bytes_of(small, image_id)
    place = small.store.root.local / path.format(packed=small.records("packed_scenes")[0].key)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)
    take_down(small.store, ARTIFACTS, [image_id], "")
    assert not files_with(small.store, data[100:200])


def test_what_another_run_trained_without_it_is_not_counted(small, tmp_path):
    fewer = of_folder(small.store.root.local, photographs(tmp_path / "fewer", without=range(9)), "mining.k=2")
    fewer.make("image_level")
    record_run(fewer, "20260102-b")
    image_id = next(row["image_id"] for row in small.rows("scenes") if row["path"] == "04.png")
    trained = find_traces(small.store, ARTIFACTS, [image_id]).trained
    assert small.plan("image_level").key in trained["image_level"]
    assert fewer.plan("image_level").key not in trained["image_level"]


@pytest.mark.parametrize("survived", [0, 1, 2, 4, 7, 10])
def test_a_takedown_that_dies_on_the_way_is_finished_by_the_next(small, survived):
    (image_id, _), left = some(small)[0], [survived]
    delete, pack = Store.delete_part, takedown.pack_without

    def die_or(work):
        def step(*arguments):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return work(*arguments)

        return step

    data = bytes_of(small, image_id)
    deleting = mock.patch.object(Store, "delete_part", die_or(delete))
    packing = mock.patch.object(takedown, "pack_without", die_or(pack))
    with deleting, packing, pytest.raises(KeyboardInterrupt):
        take_down(small.store, ARTIFACTS, [image_id], "")
    assert_whole(small.store)
    take_down(small.store, ARTIFACTS, [image_id], "")
    assert {place.split("/")[0] for place in places_of(small.store, image_id)} == {"listing"}
    assert small.store.present("report") == set()
    assert find_traces(small.store, ARTIFACTS, [image_id]).parts == {}
    assert not files_with(small.store, data[100:200])


@pytest.mark.parametrize("survived", range(4))
def test_a_takedown_that_dies_while_it_packs_is_finished_by_the_next(small, survived):
    (image_id, _), left, write = some(small)[0], [survived], Folder.write
    data = bytes_of(small, image_id)

    def die(folder, path, written):
        if path.startswith("packed_scenes/"):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        write(folder, path, written)

    with mock.patch.object(Folder, "write", die), contextlib.suppress(KeyboardInterrupt):
        take_down(small.store, ARTIFACTS, [image_id], "")
    assert left == [0] or survived == 3  # a pack, a table, a record
    assert_whole(small.store)
    take_down(small.store, ARTIFACTS, [image_id], "")
    assert not files_with(small.store, data[100:200])
    assert {place.split("/")[0] for place in places_of(small.store, image_id)} == {"listing"}
