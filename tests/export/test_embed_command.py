"""What ``embed`` refuses, with exit code 2 and before anything starts; and what it copies out."""

import json

import pytest
import torch
from small_store import SmallStore

from orl_ray.config import flatten
from orl_ray.encoders.backbones import build_backbone
from orl_ray.export.embed_command import embed_command


@pytest.fixture
def weights(tmp_path):
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


@pytest.fixture
def told(tmp_path, capsys):
    """Return a function that runs a command which must be refused, and returns its message."""

    def run(*arguments):
        small = SmallStore.new(tmp_path / "store")
        settings = [f"{name}={value}" for name, value in flatten(small.config).items()]
        assert embed_command([*arguments, *settings]) == 2
        return capsys.readouterr().err

    return run


def test_a_missing_place_is_named(told, weights):
    assert "name a file of weights and a folder to write to; got" in told(weights)


def test_weights_that_are_none_are_refused(told, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"something else")
    assert "is no file of torch.save" in told(str(tmp_path / "other.pth"), str(tmp_path / "out"))


def test_a_folder_that_holds_something_else_is_refused(told, weights, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("")
    assert "holds something else" in told(weights, str(out))
    held = {"backbone": "resnet18", "weights": "other", "of": "images", "numbers": "float32"}
    (out / "_vectors.json").write_text(json.dumps(held))
    assert "holds vectors of another weights, numbers" in told(weights, str(out))
    assert sorted(path.name for path in out.iterdir()) == ["_vectors.json", "mine"]


def test_a_missing_file_of_boxes_is_told_before_anything_starts(told, weights, tmp_path):
    assert "nowhere.parquet" in told(weights, str(tmp_path / "out"), "--boxes", str(tmp_path / "nowhere.parquet"))
    assert not (tmp_path / "out").exists()
