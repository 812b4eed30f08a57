"""Which backbone of a store is exported, and what its card says of it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_store import HISTORY, fresh_weights

from orl_ray.config import flatten
from orl_ray.evaluation.stages import RESULT
from orl_ray.export.commands import export_backbone_command
from orl_ray.export.model_card import model_card
from orl_ray.export.trained import find_trained
from orl_ray.pipeline import FINISHED
from orl_ray.storage import StoreError


def write_run(small, run_id, **more):
    """Leave the record of a run that used all that there is, as the main job leaves it."""
    names = ("image_level", "object_level", "evaluation")
    plans = {name: small.plan(name) for name in names}
    stages = {name: {"key": p.key, "content_hash": p.content_hash, "parts": {}} for name, p in plans.items()}
    run = {"run_id": run_id, "status": FINISHED, "config": flatten(small.config), "stages": stages, **more}
    small.store.write_run(run_id, run)
    return stages


@pytest.fixture
def small(finished, tmp_path):
    return finished.copy(tmp_path / "copy")


def assert_is(backbone, small, stage):
    wanted = fresh_weights(small.config, stage)
    state = backbone.state_dict()
    assert all(torch.equal(tensor, wanted[f"online.backbone.{name}"]) for name, tensor in state.items())


class TestWhichOne:
    def test_the_newest_runs_object_level_result(self, small):
        stages = write_run(small, "20260101T000000-aaaaaa")
        found = find_trained(small.store)
        assert (found.stage, found.content_hash) == ("object_level", stages["object_level"]["content_hash"])
        assert found.run["run_id"] == "20260101T000000-aaaaaa"
        assert_is(found.backbone, small, "object_level")
        assert not found.backbone.training

    def test_the_image_level_result_by_name(self, small):
        write_run(small, "20260101T000000-aaaaaa")
        assert_is(find_trained(small.store, "image_level").backbone, small, "image_level")

    def test_by_content_hash_without_any_run(self, small):
        content = small.plan("object_level").content_hash
        found = find_trained(small.store, f"object_level@{content[:8]}")
        assert (found.content_hash, found.run, found.evaluation) == (content, None, None)

    def test_by_run_as_of_an_earlier_round(self, small):
        stages = write_run(small, "20260101T000000-aaaaaa", round={"number": 1, "of": 2, "builds_on": []})
        other = json.loads(json.dumps(stages))
        other["object_level"] = {"key": "other", "content_hash": "ff00", "parts": {}}
        run = {"run_id": "20260102T000000-bbbbbb", "config": flatten(small.config), "stages": other}
        small.store.write_run(run["run_id"], run)
        found = find_trained(small.store, run_id="20260101T000000-aaaaaa")
        assert found.content_hash == stages["object_level"]["content_hash"]
        assert "| round | 1 of 2 |" in model_card(found, "timm", "pass")

    @pytest.mark.parametrize(
        ("wanted", "run_id", "told"),
        [
            ("object_level@ffffff", "", "no finished object_level@ffffff"),
            ("neighbors", "", "no training 'neighbors'; name one of object_level, image_level"),
            ("object_level", "20200101T000000-cccccc", "no run 20200101T000000-cccccc"),
            ("object_level@ffffff", "20260101T000000-aaaaaa", "run 20260101T000000-aaaaaa of .* has no finished"),
        ],
    )
    def test_what_is_not_there_is_said(self, small, wanted, run_id, told):
        write_run(small, "20260101T000000-aaaaaa")
        with pytest.raises(ValueError, match=told):
            find_trained(small.store, wanted, run_id)

    def test_changed_weights_are_refused(self, small):
        write_run(small, "20260101T000000-aaaaaa")
        file = small.store.part_folder("object_level", small.plan("object_level").key).local / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.unlink()
        file.write_bytes(data)
        with pytest.raises(StoreError, match="changed"):
            find_trained(small.store)


class TestCard:
    def test_says_what_was_done_and_no_path(self, small):
        write_run(small, "20260101T000000-aaaaaa")
        card = model_card(find_trained(small.store), "transformers", "print(1)")
        settings = small.config.object_level
        for row in (
            f"| epochs | {settings.epochs} |",
            f"| batch_size | {settings.batch_size} |",
            "| seed | 0 |",
            f"| steps | {len(HISTORY):,} |",
            "| run | 20260101T000000-aaaaaa |",
        ):
            assert row in card
        assert "rendered scenes" in card
        assert "encoder.backbone=resnet18" in card
        assert "No licence was chosen" in card
        assert f"resizing the shorter side to {small.config.embeddings.image_resize} pixels" in card
        assert str(small.store.root) not in card

    def test_says_what_was_scored(self, small):
        write_run(small, "20260101T000000-aaaaaa")
        result = json.loads(small.store.read_file("evaluation", small.plan("evaluation").key, RESULT))
        card = model_card(find_trained(small.store), "timm", "print(1)")
        rows = [row for row in result["rows"] if row["arm"] == "object_level"]
        assert len(rows) == 2
        for row in rows:
            assert f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" in card
        assert result["protocol_hash"] in card

    def test_says_where_nothing_is_known(self, small):
        found = find_trained(small.store, f"object_level@{small.plan('object_level').content_hash}")
        card = model_card(found, "timm", "print(1)")
        assert "images of a source that is not recorded" in card
        assert "Not evaluated" in card


class TestCommand:
    def test_writes_files_that_hold_the_weights(self, small, tmp_path, capsys):
        write_run(small, "20260101T000000-aaaaaa")
        out = tmp_path / "out"
        assert export_backbone_command([str(small.store.root), "torchvision", str(out)]) == 0
        assert sorted(path.name for path in out.iterdir()) == ["README.md", "backbone.pth", "backbone.safetensors"]
        wanted = fresh_weights(small.config, "object_level")
        for name, tensor in load_file(out / "backbone.safetensors").items():
            assert torch.equal(tensor, wanted[f"online.backbone.{name}"])
        assert "object_level@" in capsys.readouterr().out

    def test_a_folder_that_is_not_empty_is_refused(self, small, tmp_path, capsys):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("")
        assert export_backbone_command([str(small.store.root), "timm", str(tmp_path / "out")]) == 2
        assert "not empty" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]

    def test_no_store_and_no_result_are_told(self, small, tmp_path, capsys):
        assert export_backbone_command([str(tmp_path / "nowhere"), "timm", str(tmp_path / "out")]) == 2
        assert "is no store" in capsys.readouterr().err
        assert export_backbone_command([str(small.store.root), "timm", str(tmp_path / "out")]) == 2  # no run yet
        assert "has no finished object_level" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
