"""Vision transformers: torchvision's keys and outputs, images of any size, and a keyed initialisation."""

import pytest
import torch
import torchvision

from orl_ray.config import FEATURES
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.weights import load_backbone


@pytest.fixture(scope="module")
def small():
    backbone = build_backbone("vit_small").eval()
    initialise(backbone, 0, "backbone")
    return backbone


def test_base_has_torchvisions_keys_and_tokens():
    reference = torchvision.models.vit_b_16(weights=None).eval()
    backbone = build_backbone("vit_base").eval()
    load_backbone(backbone, reference.state_dict())
    assert list(backbone.state_dict()) == [key for key in reference.state_dict() if not key.startswith("heads.")]
    images = torch.randn(1, 3, 224, 224)
    patches = reference._process_input(images)
    tokens = reference.encoder(torch.cat([reference.class_token, patches], dim=1))
    with torch.inference_mode():
        maps = backbone.maps(images)
        torch.testing.assert_close(maps.flatten(2).mT, tokens[:, 1:])
        torch.testing.assert_close(backbone(images), tokens[:, 1:].mean(dim=1))
    assert backbone.features == FEATURES["vit_base"]


@pytest.mark.parametrize(("height", "width", "cells"), [(96, 96, (6, 6)), (64, 100, (4, 6)), (224, 224, (14, 14))])
def test_images_of_any_size_give_a_cell_a_patch(small, height, width, cells):
    with torch.inference_mode():
        maps = small.maps(torch.randn(2, 3, height, width))
    assert maps.shape == (2, FEATURES["vit_small"], *cells)
    assert torch.isfinite(maps).all()


def test_positions_are_interpolated_between_the_learned_ones(small):
    with torch.inference_mode():
        learned = small._positions(14, 14)
        fewer = small._positions(7, 7)
    assert learned.shape == (1, 197, 384)
    assert torch.equal(fewer[:, 0], learned[:, 0])  # the class token has no place in the image
    flat = torch.nn.Parameter(torch.ones_like(small.encoder.pos_embedding))
    kept, small.encoder.pos_embedding = small.encoder.pos_embedding, flat
    torch.testing.assert_close(small._positions(5, 9), torch.ones(1, 46, 384))
    small.encoder.pos_embedding = kept


def test_initialisation_is_keyed_and_sets_every_weight(small):
    other = build_backbone("vit_small")
    for tensor in other.state_dict().values():
        tensor.fill_(3)
    initialise(other, 0, "backbone")
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name])
    weights = other.encoder.layers[0].self_attention.in_proj_weight
    assert weights.std().item() == pytest.approx(0.02, rel=0.03)
    assert torch.all(other.encoder.ln.weight == 1)
    assert torch.all(other.conv_proj.bias == 0)


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_backbone("vit_small")
    assert torch.equal(torch.get_rng_state(), before)
