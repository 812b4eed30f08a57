"""The stage scenes: what later keys hang on, and nothing of how images are packed."""

from small_store import make_stage

from orl_ray import schema
from orl_ray.part_runner import WorkerContext
from orl_ray.pipeline import PartPlan
from orl_ray.scenes import packs
from orl_ray.scenes.packs import packed_part
from orl_ray.scenes.stages import describe_part


def test_a_part_is_its_packed_part_without_what_depends_on_packing(finished):
    for scenes, packed in zip(finished.tables("scenes"), finished.tables("packed_scenes"), strict=True):
        assert scenes.schema == schema.SCENES
        assert scenes.equals(packed.select(schema.SCENES.names).cast(schema.SCENES))


def test_a_part_names_the_pack_of_its_images(finished):
    for scenes, packed in zip(finished.records("scenes"), finished.records("packed_scenes"), strict=True):
        assert packed_part(finished.store, scenes.key) == packed.key
        assert scenes.facts == {"packed_scenes": packed.key}
        assert scenes.rows == packed.rows


def test_the_size_of_packs_changes_packs_and_no_later_key(finished, tmp_path, monkeypatch):
    small = finished.copy(tmp_path / "copy")
    for record in small.records("packed_scenes"):
        small.store.root.delete(f"packed_scenes/{record.key}.json")
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    make_stage(small.config, small.store, small.plan("packed_scenes"))
    assert small.plan("packed_scenes").content_hash != finished.plan("packed_scenes").content_hash
    context = WorkerContext(small.config, small.store, {})
    for record, before in zip(small.records("packed_scenes"), finished.records("scenes"), strict=True):
        output = describe_part(context, None, PartPlan(record.index, "out", {"packed_scenes": record.key}))
        written = small.store.write_part("scenes", "out", record.index, output.files, rows=output.rows)
        assert written.content_hash == before.content_hash
