"""What classifiers are trained on: keyed views, and changes of colour against torchvision and plain NumPy."""

from dataclasses import replace

import numpy as np
import published_layouts
import pytest
import torch
from torchvision.transforms import functional

from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.evaluation.recipes import LINEAR
from orl_ray.evaluation.single_label_layouts import imagenet
from orl_ray.evaluation.training_views import (
    TrainingBatch,
    colour_draws,
    training_batches,
    training_crop,
    training_input,
)
from orl_ray.pretraining.sampling import SampleStream, Share

RECIPE = replace(LINEAR["imagenet"]["layers-28"], batch=4, side=24)
PLAIN = replace(LINEAR["places205"]["layers-14"], batch=4, side=24)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return imagenet(published_layouts.imagenet(tmp_path_factory.mktemp("imagenet"), train=3, val=1), "train")


def batches(images, steps, rank=0, size=1, threads=2):
    stream = SampleStream(0, "evaluation classifier", len(images), 4)
    return list(training_batches(images, PLAIN, stream, [Share(step, rank, size) for step in steps], threads))


def test_batches_hold_the_images_of_their_step_with_their_labels(images):
    seen = batches(images, range(9))
    labels = torch.cat([batch.labels for batch in seen])
    assert np.bincount(labels.numpy()).tolist() == [12, 12, 12]  # 36 samples are 4 walks through 9 images
    for batch in seen:
        for view, label in zip(batch.images, batch.labels, strict=True):
            colour = view.float().mean(dim=(1, 2))
            assert int(colour.argmax()) == (2, 0, 1)[int(label)]  # what published_layouts paints


def test_shares_of_two_processes_make_up_the_batch_whatever_the_threads(images):
    (whole,) = batches(images, range(2, 3), threads=1)
    halves = [batches(images, range(2, 3), rank, 2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert torch.equal(torch.cat([half.labels for half in halves]), whole.labels)
    assert np.concatenate([half.parameters.flip for half in halves]).tolist() == whole.parameters.flip.tolist()


def test_crops_differ_from_epoch_to_epoch_and_image_to_image():
    image = np.random.default_rng(0).integers(0, 256, size=(60, 80, 3), dtype=np.uint8)
    crops = [training_crop(image, 0, lap, np.array([number]), 24) for lap in (0, 1) for number in (5, 6)]
    assert len({crop.tobytes() for crop in crops}) == 4
    assert crops[0].shape == (24, 24, 3)


def test_half_of_the_images_are_flipped():
    parameters, _ = colour_draws(0, 0, np.arange(4000), PLAIN)
    assert parameters.flip.mean() == pytest.approx(0.5, abs=0.03)
    assert not parameters.jitter.any()


def test_without_jitter_and_lighting_the_input_is_the_normalised_view(images):
    (batch,) = batches(images, range(1))
    expected = batch.images.float() / 255
    expected[batch.parameters.flip] = expected[batch.parameters.flip].flip(-1)
    expected = functional.normalize(expected, MEAN, STD)
    torch.testing.assert_close(training_input(batch, torch.device("cpu")), expected)


def test_jitter_is_torchvisions_in_the_drawn_order():
    generator = np.random.default_rng(1)
    pixels = torch.from_numpy(generator.integers(0, 256, size=(6, 3, 20, 20), dtype=np.uint8))
    parameters, lighting = colour_draws(3, 1, np.arange(6), RECIPE)
    assert parameters.jitter.all()
    assert (np.abs(parameters.factors[:, :3] - 1) <= 0.4).all()
    assert (parameters.factors[:, :3].std(axis=0) > 0.05).all()
    found = training_input(
        TrainingBatch(pixels, parameters, np.zeros_like(lighting), torch.zeros(6)), torch.device("cpu")
    )
    operations = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    for number in range(6):
        view = pixels[number].float() / 255
        view = view.flip(-1) if parameters.flip[number] else view
        for which in parameters.order[number]:
            if which < 3:
                view = operations[which](view, float(parameters.factors[number, which]))
        torch.testing.assert_close(found[number], functional.normalize(view, MEAN, STD), atol=2e-4, rtol=1e-4)


def test_lighting_has_the_spread_of_the_principal_axes_and_is_one_colour_an_image():
    _, lighting = colour_draws(0, 0, np.arange(40_000), RECIPE)
    axes = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    covariance = axes @ np.diag((0.1 * np.array([0.2175, 0.0188, 0.0045])) ** 2) @ axes.T
    np.testing.assert_allclose(np.cov(lighting.T), covariance, atol=4e-6)
    assert np.abs(lighting.mean(axis=0)).max() < 5e-4
    assert not colour_draws(0, 0, np.arange(5), PLAIN)[1].any()


def test_lighting_is_added_before_the_colours_are_normalised():
    pixels = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    parameters, _ = colour_draws(0, 0, np.arange(1), PLAIN)
    added = np.array([[0.01, -0.02, 0.03]], np.float32)
    found = training_input(TrainingBatch(pixels, parameters, added, torch.zeros(1)), torch.device("cpu"))
    expected = (100 / 255 + added[0] - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found[0, :, 2, 2].numpy(), expected, rtol=1e-5)
