"""Strict loading of backbone weights."""

import pytest
import torch
import torchvision

from orl_ray.encoders.backbones import build_backbone
from orl_ray.encoders.weights import load_backbone


def test_torchvision_weights_load_and_their_classifier_is_left_out():
    reference = torchvision.models.resnet18(weights=None)
    backbone = build_backbone("resnet18")
    load_backbone(backbone, reference.state_dict())
    assert all(torch.equal(tensor, reference.state_dict()[name]) for name, tensor in backbone.state_dict().items())


def test_prefix_selects_the_online_backbone_of_a_checkpoint():
    source, backbone = build_backbone("resnet18"), build_backbone("resnet18")
    state = {f"online.backbone.{name}": tensor for name, tensor in source.state_dict().items()}
    state["target.backbone.conv1.weight"] = torch.zeros(1)
    load_backbone(backbone, state, prefix="online.backbone.")
    assert torch.equal(backbone.state_dict()["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])


def test_error_lists_missing_unexpected_and_misshapen_keys():
    backbone = build_backbone("resnet18")
    state = dict(backbone.state_dict())
    del state["bn1.weight"]
    state["head.weight"] = torch.zeros(2)
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(ValueError) as error:
        load_backbone(backbone, state)
    for part in ("missing bn1.weight", "unexpected head.weight", "conv1.weight has shape (64, 1, 7, 7)"):
        assert part in str(error.value)
