"""Weights to start from: which files are read, what enters the key, and what does not fit."""

import dataclasses
import shutil

import pytest
import safetensors.torch
import torch
import torchvision

from orl_ray import config
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.pretraining.initial_weights import initial_backbone, initial_identity, read_backbone
from orl_ray.pretraining.networks import build_network
from orl_ray.settings import ConfigError, load
from orl_ray.storage import Store

ENCODER = config.Encoder("resnet18", hidden=6, output=4)


@pytest.fixture(scope="module")
def weights():
    backbone = build_backbone("resnet18")
    initialise(backbone, 5, "elsewhere")
    return backbone.state_dict()


def written(folder, content, name="weights.pth"):
    path = folder / name
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


def with_start(path, stage="image_level"):
    return load("laptop", None, [f"{stage}.init_from={path}"])


def prefixed(weights, prefix, **others):
    return {**{f"{prefix}{name}": tensor for name, tensor in weights.items()}, **others}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "torchvision.pth",
            lambda weights: {**weights, "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)},
        ),
        ("plain.safetensors", lambda weights: weights),
        ("ours.safetensors", lambda weights: prefixed(weights, "online.backbone.", **{"target.x": torch.ones(1)})),
        ("reference.pth", lambda weights: {"state_dict": prefixed(weights, "backbone.", **{"neck.x": torch.ones(1)})}),
    ],
)
@pytest.mark.parametrize("method", ["byol", "moco", "simclr"])
def test_networks_start_from_the_backbone_of_any_of_these_files(tmp_path, weights, name, content, method):
    path = written(tmp_path, content(weights), name)
    store = Store(str(tmp_path / "store"))
    backbone = initial_backbone(with_start(path), store, "image_level", {})
    network = build_network(config.ImageLevel(method=method), ENCODER, ("global",), 0, "image_level", 9, backbone)
    drawn = build_network(config.ImageLevel(method=method), ENCODER, ("global",), 0, "image_level", 9)
    for part in [network.online, *([network.target] if method != "simclr" else [])]:
        for key, tensor in part.backbone.state_dict().items():
            assert torch.equal(tensor, weights[key])
    for key, tensor in network.online.projector.state_dict().items():
        assert torch.equal(tensor, drawn.online.projector.state_dict()[key])


def test_weights_of_another_backbone_are_an_error(weights):
    resnet50 = torchvision.models.resnet50(weights=None).state_dict()
    for given in (resnet50, {name: tensor for name, tensor in weights.items() if name != "bn1.weight"}):
        with pytest.raises(ValueError, match="the weights do not fit the backbone"):
            build_network(config.ImageLevel(), ENCODER, ("global",), 0, "image_level", 9, given)


def test_the_content_enters_the_key_and_the_place_does_not(tmp_path, weights):
    first = written(tmp_path, weights, "a.pth")
    copy = shutil.copy(first, tmp_path / "b.pth")
    other = written(tmp_path, {**weights, "conv1.weight": weights["conv1.weight"] + 1}, "c.pth")
    identity = initial_identity("image_level")
    assert identity(load("laptop")) == {}
    assert identity(with_start(first)) == identity(with_start(copy)) != identity(with_start(other))
    assert initial_identity("object_level")(with_start("image_level", "object_level")) == {}


def test_a_file_that_is_gone_or_holds_no_weights_is_an_error(tmp_path):
    store = Store(str(tmp_path / "store"))
    path = written(tmp_path, {"step": 3})
    with pytest.raises(ValueError, match="holds no tensors by name"):
        initial_backbone(with_start(path), store, "image_level", {})
    settings = with_start(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"init_from: .* is not there"):
        initial_backbone(settings, store, "image_level", {})


def test_a_pickle_of_code_is_refused(tmp_path):
    path = written(tmp_path, {"weights": dataclasses.field})
    with pytest.raises(Exception, match="weights_only"):
        read_backbone(str(path), path.read_bytes())


def test_only_object_level_training_starts_from_image_level(tmp_path):
    assert with_start("image_level", "object_level").object_level.init_from == "image_level"
    for stage, value in (("image_level", "image_level"), ("object_level", f"{tmp_path}/none.pth")):
        with pytest.raises(ConfigError, match=f"{stage}.init_from: {value} is not a file"):
            with_start(value, stage)
