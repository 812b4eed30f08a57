"""Layers of a ResNet and their pools: the published widths, and the mean over the right pixels."""

import numpy as np
import pytest
import torch

from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.evaluation.layers import LAYERS, channels, layer_maps, pooled


@pytest.fixture(scope="module")
def resnet18():
    backbone = build_backbone("resnet18").eval()
    initialise(backbone, 0, "layers")
    return backbone


def test_a_resnet50_gives_the_published_numbers_of_features():
    backbone = build_backbone("resnet50").eval()
    with torch.inference_mode():
        maps = layer_maps(backbone, torch.zeros(1, 3, 224, 224), LAYERS)
    widths = {layer: pooled(layer, values).flatten(1).shape[1] for layer, values in maps.items()}
    assert widths == {"conv1": 9216, "res2": 9216, "res3": 8192, "res4": 9216, "res5": 8192}


def test_the_last_layer_is_what_the_backbone_pools(resnet18):
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        maps = layer_maps(resnet18, images, ["res5"])
        torch.testing.assert_close(maps["res5"].mean(dim=(2, 3)), resnet18(images))
    assert list(maps) == ["res5"]


def test_the_first_layer_lies_behind_norm_and_relu_and_before_the_max_pool(resnet18):
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        maps = layer_maps(resnet18, images, ["conv1"])["conv1"]
        torch.testing.assert_close(maps, resnet18.bn1(resnet18.conv1(images)).relu())


def test_taking_a_layer_does_not_change_what_the_others_are(resnet18):
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        together = layer_maps(resnet18, images, LAYERS)
        for layer in LAYERS:
            torch.testing.assert_close(layer_maps(resnet18, images, [layer])[layer], together[layer])


def test_pools_are_means_over_windows_and_padding_counts_as_zero():
    maps = torch.rand(1, 2, 56, 56)
    grid = pooled("res2", maps)
    assert grid[0, 1, 2, 5].item() == pytest.approx(maps[0, 1, 16:32, 40:56].mean().item(), abs=1e-6)
    first = pooled("conv1", torch.ones(1, 1, 112, 112))
    assert first[0, 0, 0, 0].item() == pytest.approx(36 / 100)  # a window of 10, four rows and columns of it padding
    assert first[0, 0, 5, 5].item() == 1.0


def test_images_of_another_size_and_unknown_layers_are_refused(resnet18):
    with pytest.raises(ValueError, match="224 pixels"):
        pooled("res2", torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="'res6'"):
        layer_maps(resnet18, torch.zeros(1, 3, 32, 32), ["res6"])


def test_channels_are_counted_and_the_network_is_left_as_it_was(resnet18):
    before = {name: tensor.clone() for name, tensor in resnet18.state_dict().items()}
    resnet18.train()
    assert channels(resnet18) == {"conv1": 64, "res2": 64, "res3": 128, "res4": 256, "res5": 512}
    assert resnet18.training
    resnet18.eval()
    assert all(np.array_equal(tensor, before[name]) for name, tensor in resnet18.state_dict().items())
