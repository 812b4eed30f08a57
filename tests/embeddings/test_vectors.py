"""Crops to unit vectors: the same whoever computes them, in whichever company."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms.v2 import functional

from orl_ray.embeddings import vectors
from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.vectors import embed
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.normalisation import MEAN, STD, normalise

SIDE = 32


@pytest.fixture(scope="module")
def encoder():
    backbone = build_backbone("resnet18")
    initialise(backbone, 3, "test")
    return FrozenEncoder(backbone, None, torch.device("cpu"))


class Recorder(nn.Module):
    """A stand-in that gives each crop's mean colours, and notes the batches that it saw."""

    features, device = 3, torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        self.batches.append(images.shape)
        return images.mean(dim=(2, 3))


def crops(count, side=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_normalise_is_torchvisions():
    images = torch.from_numpy(crops(3)).permute(0, 3, 1, 2).float() / 255
    wanted = functional.normalize(images, list(MEAN), list(STD))
    torch.testing.assert_close(normalise(images), wanted)


def test_vectors_are_those_of_the_network_at_unit_length(encoder):
    images = crops(5)
    with torch.inference_mode():
        raw = encoder(normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)).numpy()
    wanted = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    found = embed(encoder, images, 4)
    assert (found.dtype, found.shape) == (np.float16, (5, 512))
    np.testing.assert_allclose(found.astype(np.float32), wanted, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1, atol=2e-3)


def test_bits_do_not_depend_on_what_else_is_in_the_batch(encoder):
    images = crops(7)
    together = embed(encoder, images, 4)
    for number in range(7):
        np.testing.assert_array_equal(embed(encoder, images[number : number + 1], 4)[0], together[number])


@settings(max_examples=25)
@given(st.integers(0, 12), st.integers(1, 5))
def test_every_forward_pass_sees_a_full_batch(count, batch_size):
    recorder = Recorder()
    found = embed(recorder, iter(crops(count, 4)), batch_size)
    assert found.shape == (count, 3)
    assert recorder.batches == [(batch_size, 3, 4, 4)] * -(-count // batch_size)


def test_padding_leaves_no_trace():
    images = crops(5, 4)
    np.testing.assert_array_equal(embed(Recorder(), images, 5), embed(Recorder(), images, 3))


def test_crops_are_read_a_batch_at_a_time():
    read, recorder = [], Recorder()

    def stream():
        for number, crop in enumerate(crops(6, 4)):
            read.append((number, len(recorder.batches)))
            yield crop

    embed(recorder, stream(), 2)
    assert read == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_a_collapsed_or_broken_network_is_told(monkeypatch, broken):
    monkeypatch.setattr(vectors, "normalise", lambda images: torch.full(images.shape, broken))
    with pytest.raises(ValueError, match="it has collapsed, or its weights are broken"):
        embed(Recorder(), crops(2, 4), 2)
