"""Decoding and cutting where the network computes: here torchvision on the CPU, the same views but for bits."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import decode_jpeg

from orl_ray.pretraining import device_decoding
from orl_ray.pretraining.device_decoding import EncodedBatch
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.pretraining.views import ViewMaker

TERMS = ("global", "intra", "inter")
CPU = torch.device("cpu")
STREAM = SampleStream(0, "object_level", 6, 4)


def photo(number):
    """Return a plain, a turned or a CMYK JPEG, or a PNG, by the number."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((70 + number, 60), Image.Resampling.BICUBIC)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3 if number == 2 else 1
    if number == 4:
        image = image.convert("CMYK")
    image.save(file, "PNG" if number == 3 else "JPEG", exif=exif)
    return file.getvalue()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs") / "set"
    with TrainingSetWriter(folder, 10_000) as writer:
        for number in range(6):
            rois = [[number, 2, 40, 30], [5, 10, 24, 40]]
            writer.add(number, photo(number), rois, [((number + 1) % 6, rois, [[1, 2, 30, 40], [0, 0, 50, 25]])])
    return TrainingSet.open(folder)


@pytest.fixture
def maker(photographs):
    return ViewMaker(photographs, 0, "object_level", TERMS, 32, 16)


@pytest.mark.parametrize("ways", [{"threads": 3}, {"processes": 1}])
def test_views_are_those_of_the_host_up_to_the_rounding_of_resizes(maker, ways):
    shares = [Share(step, index, 2) for step in range(2) for index in range(2)]
    wanted = list(view_batches(maker, STREAM, shares))
    found = list(view_batches(dataclasses.replace(maker, on_device=True), STREAM, shares, **ways))
    for batch, other in zip(found, wanted, strict=True):
        assert isinstance(batch, EncodedBatch)
        assert batch.step == other.step
        assert torch.equal(batch.sample_weights["inter"], other.sample_weights["inter"])
        images = batch.images_on(CPU)
        assert list(images) == list(TERMS)
        for term in TERMS:
            for view in range(2):
                one, two = images[term][view], other.images[term][view]
                assert one.shape == two.shape
                assert one.is_contiguous(memory_format=torch.channels_last)
                assert (one.int() - two.int()).abs().max() <= 2
                assert np.array_equal(batch.parameters[term][view].sigma, other.parameters[term][view].sigma)


def test_only_plain_jpegs_are_left_to_the_device_and_each_image_is_decoded_once(maker, monkeypatch):
    (batch,) = view_batches(
        dataclasses.replace(maker, on_device=True), SampleStream(0, "object_level", 6, 6), [Share(0)]
    )
    assert {position: file.ndim for position, file in batch.files.items()} == {0: 1, 1: 1, 2: 3, 3: 3, 4: 3, 5: 1}
    calls = []
    monkeypatch.setattr(
        device_decoding, "decode_jpeg", lambda files, **how: calls.append(len(files)) or decode_jpeg(files, **how)
    )
    batch.images_on(CPU)
    assert calls == [3]


def test_a_batch_without_plain_jpegs_needs_no_decoder(maker, monkeypatch):
    monkeypatch.setattr(device_decoding, "decode_jpeg", None)
    whole = view_batches(dataclasses.replace(maker, on_device=True, terms=("global",)), STREAM, [Share(0)])
    (batch,) = whole
    pixels = {position: torch.zeros(60, 80, 3, dtype=torch.uint8) for position in batch.files}
    assert not dataclasses.replace(batch, files=pixels).images_on(CPU)["global"][0].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_nearly_the_hosts_views(maker):
    (wanted,) = view_batches(maker, STREAM, [Share(0)])
    (found,) = view_batches(dataclasses.replace(maker, on_device=True), STREAM, [Share(0)])
    for term, pair in found.images_on(torch.device("cuda")).items():
        for one, two in zip(pair, wanted.images[term], strict=True):
            assert (one.cpu().int() - two.int()).abs().float().mean() < 3
