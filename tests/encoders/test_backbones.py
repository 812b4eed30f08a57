"""Backbones: torchvision's keys and outputs, and an initialisation that is keyed and leaves global generators alone."""

import pytest
import torch
import torchvision
from torch import nn

from orl_ray.config import FEATURES
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.heads import mlp_head


@pytest.mark.parametrize(("name", "features"), [("resnet18", 512), ("resnet50", 2048)])
def test_state_dict_has_torchvisions_keys_without_the_classifier(name, features):
    backbone = build_backbone(name)
    reference = getattr(torchvision.models, name)(weights=None)
    assert list(backbone.state_dict()) == [key for key in reference.state_dict() if not key.startswith("fc.")]
    assert backbone.features == features == FEATURES[name]


def test_features_equal_torchvisions_network_with_an_identity_classifier():
    reference = torchvision.models.resnet18(weights=None).eval()
    backbone = build_backbone("resnet18").eval()
    missing = backbone.load_state_dict(reference.state_dict(), strict=False)
    assert missing.missing_keys == []
    reference.fc = nn.Identity()
    images = torch.randn(3, 3, 40, 32)
    assert torch.equal(backbone(images), reference(images))


def test_unknown_backbone_is_an_error_that_lists_the_choices():
    with pytest.raises(ValueError, match=r"resnet101.*resnet18, resnet50"):
        build_backbone("resnet101")


def test_building_and_initialising_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    initialise(build_backbone("resnet18"), 7, "backbone")
    assert torch.equal(torch.get_rng_state(), before)


def test_initialisation_is_a_function_of_seed_and_names():
    def weights(seed, *names):
        head = mlp_head(8, 6, 4)
        initialise(head, seed, *names)
        return head[0].weight.detach()

    assert torch.equal(weights(1, "intra"), weights(1, "intra"))
    assert not torch.equal(weights(1, "intra"), weights(2, "intra"))
    assert not torch.equal(weights(1, "intra"), weights(1, "inter"))


def test_initialisation_is_kaiming_normal_fan_in_with_plain_batch_norms():
    backbone = build_backbone("resnet18")
    for tensor in backbone.state_dict().values():
        tensor.fill_(3)
    initialise(backbone, 0, "backbone")
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
        if isinstance(module, nn.BatchNorm2d):  # the last one of each block too: no zero-initialised residual
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 0)
            assert torch.all(module.running_mean == 0)
            assert torch.all(module.running_var == 1)
            assert module.num_batches_tracked == 0


def test_linear_layers_are_kaiming_normal_fan_in_with_zero_bias():
    head = mlp_head(512, 300, 64)
    initialise(head, 0, "projector")
    assert torch.all(head[0].bias == 0)
    assert head[0].weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert head[3].weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.02)
