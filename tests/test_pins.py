"""Pins: what is frozen is found by content, refused where it does not fit, and spares everything but what is new."""

from dataclasses import asdict

import pytest

from orl_ray.config import Encoder
from orl_ray.pins import PinError, frozen_needs, grown_share, parse_freeze, resolve_pins
from orl_ray.pipeline import Input, Stage, State, collection_hash, plan
from orl_ray.settings import ConfigError, load
from orl_ray.storage import Store

RESNET = asdict(load("coco", None, []).encoder)


def config(*overrides):
    return load("coco", None, list(overrides))


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def write_encoder(store, key, weights=b"weights", encoder=RESNET, images=100):
    record = store.write_part(
        "image_level", key, 0, {"w": weights}, rows=7, facts={"images": images, "encoder": encoder}
    )
    store.write_manifest("image_level", key, [record])
    return collection_hash([record])


def write_run(store, run_id, **stages):
    known = {"settings": {}, "inputs": {}, "version": 1}
    entries = {name: {"key": key, "content_hash": content, **known} for name, (key, content) in stages.items()}
    store.write_run(run_id, {"stages": entries})


def test_the_newest_run_that_has_one_gives_the_encoder(store):
    old, new = write_encoder(store, "old", b"1"), write_encoder(store, "new", b"2")
    write_run(store, "20260101", image_level=("old", old))
    write_run(store, "20260102", image_level=("new", new))
    write_run(store, "20260103", image_level=("later", ""))  # it did not get that far
    pin = resolve_pins(config("freeze=encoder"), store)["image_level"]
    assert (pin.key, pin.content_hash) == ("new", new)


def test_a_content_hash_finds_its_encoder_with_or_without_a_run_that_names_it(store):
    old, new = write_encoder(store, "old", b"1"), write_encoder(store, "new", b"2")
    write_run(store, "20260102", image_level=("new", new))
    for wanted in (old, old[:8]):
        assert resolve_pins(config(f"freeze=encoder@{wanted}"), store)["image_level"].key == "old"


def test_a_run_whose_encoder_is_gone_is_passed_over(store):
    kept = write_encoder(store, "kept")
    write_run(store, "20260101", image_level=("kept", kept))
    write_run(store, "20260102", image_level=("collected", "ab12"))
    assert resolve_pins(config("freeze=encoder"), store)["image_level"].key == "kept"


def test_everything_that_cannot_be_frozen_is_told_at_once(store):
    with pytest.raises(PinError) as caught:
        resolve_pins(config("freeze=encoder@abcd,centroids"), store)
    assert "no encoder with content hash abcd" in str(caught.value)
    assert "run once without freezing it" in str(caught.value)


def test_an_encoder_of_another_shape_is_refused(store):
    content = write_encoder(store, "k", encoder={**RESNET, "backbone": "resnet18"})
    with pytest.raises(PinError, match=r"the frozen encoder has encoder\.backbone=resnet18, the config resnet50"):
        resolve_pins(config(f"freeze=encoder@{content}"), store)


def test_centroids_of_another_number_of_shards_are_refused(store):
    record = store.write_part("centroids", "k", 0, {"c": b"1"}, rows=3)
    store.write_manifest("centroids", "k", [record])
    content = collection_hash([record])
    with pytest.raises(PinError, match=r"of 3 shards, mining\.shards is 2"):
        resolve_pins(config(f"freeze=centroids@{content}"), store)
    assert "centroids" in resolve_pins(config(f"freeze=centroids@{content}", "mining.shards=3"), store)


def test_nothing_is_frozen_by_default(store):
    assert resolve_pins(config(), store) == {}


def test_freeze_reads_names_and_hashes():
    assert parse_freeze(" encoder , centroids@ab12,") == [("encoder", ""), ("centroids", "ab12")]


def test_an_unknown_name_is_told_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"freeze: 'encodr' is not one of encoder, .*; did you mean encoder\?"):
        config("freeze=encodr")


def test_an_imported_result_has_no_growth_to_warn_of(store):
    facts = {"import": {"files": []}, "scenes": "ab", "holds": {"k": 10}}
    record = store.write_part("neighbors", "k", 0, {"n": b"1"}, rows=100, facts=facts)
    store.write_manifest("neighbors", "k", [record])
    pin = resolve_pins(config(f"freeze=neighbors@{collection_hash([record])}"), store)["neighbors"]
    assert grown_share(pin, 2200) == 0.0


def test_frozen_stages_need_nothing_but_the_scenes_that_imports_were_made_for():
    needs = frozen_needs(config("freeze=encoder,proposals@ab"))
    assert needs == {"image_level": (), "proposals": ("scenes",)}


def test_growth_is_measured_from_what_the_pinned_result_saw(store):
    content = write_encoder(store, "k", images=2000)
    pin = resolve_pins(config(f"freeze=encoder@{content}"), store)["image_level"]
    assert grown_share(pin, 2200) == pytest.approx(0.1)


def test_a_pinned_stage_is_done_and_spares_the_parts_that_were_there(store):
    settings = config("freeze=encoder")
    work = Encoder  # never called
    scenes = Stage("scenes", "", 1, (), (), work, scope="collection")
    trained = Stage("image_level", "", 1, (Input("scenes", "collection"),), (), work, scope="collection")
    vectors = Stage("vectors", "", 1, (Input("scenes"), Input("image_level", "collection")), (), work)
    stages = [scenes, trained, vectors]

    def write_scenes(parts):
        key = plan(settings, stages, store)[0].key
        records = [store.write_part("scenes", f"s{i}", i, {"f": bytes([i])}, rows=10) for i in range(parts)]
        store.write_manifest("scenes", key, records)

    write_scenes(2)
    first = plan(settings, stages, store)[1]
    record = store.write_part("image_level", first.key, 0, {"w": b"1"}, rows=7, facts={"images": 20, "encoder": RESNET})
    store.write_manifest("image_level", first.key, [record])
    write_run(store, "20260101", image_level=(first.key, collection_hash([record])))
    for part in plan(settings, stages, store)[2].missing:
        store.write_part("vectors", part.key, part.index, {"v": b"1"}, rows=10)

    write_scenes(3)
    assert [p.state for p in plan(settings, stages, store)][1:] == [State.RUN, State.WAITS]
    pinned = plan(settings, stages, store, resolve_pins(settings, store))
    assert pinned[1].state is State.DONE
    assert "frozen" in pinned[1].reason
    assert [part.index for part in pinned[2].missing] == [2]


def test_parts_to_make_again_are_missing_while_their_records_stay(store):
    settings = config()
    scenes = Stage("scenes", "", 1, (), (), Encoder, scope="collection")
    rois = Stage("rois", "", 1, (Input("scenes"),), (), Encoder)
    records = [store.write_part("scenes", f"s{i}", i, {"f": bytes([i])}, rows=10) for i in range(3)]
    store.write_manifest("scenes", plan(settings, [scenes], store)[0].key, records)
    for part in plan(settings, [scenes, rois], store)[1].missing:
        store.write_part("rois", part.key, part.index, {"r": b"1"}, rows=10)
    done = plan(settings, [scenes, rois], store)[1]
    assert done.state is State.DONE
    again = plan(settings, [scenes, rois], store, again={done.wanted[1].key})[1]
    assert again.state is State.RUN
    assert [part.index for part in again.missing] == [1]
    assert [record.index for record in again.records] == [0, 2]
    assert store.record("rois", done.wanted[1].key) is not None
