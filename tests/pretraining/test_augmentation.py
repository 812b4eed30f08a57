"""Augmentation: each batched operation equals torchvision's on the single image; draws follow the pipelines."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional

from orl_ray import draws
from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.pretraining.augmentation import (
    PIPELINES,
    Parameters,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment,
    augment_on_device,
    concatenate,
    draw_parameters,
    gaussian_blur,
    solarise,
)
from orl_ray.pretraining.host_augmentation import augment_on_host

FLOAT = {"rtol": 0, "atol": 2e-6}
IDS = np.arange(5000)


def photographs(count, side=24):
    """Return smooth colourful images with noise, uint8 (count, 3, side, side); the last one is gray."""
    random = np.random.default_rng(3)
    coarse = torch.from_numpy(random.uniform(0, 255, (count, 3, 5, 5)))
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    images = (images + torch.from_numpy(random.normal(0, 8, images.shape))).clamp(0, 255).to(torch.uint8)
    images[-1, 1:] = images[-1, :1]
    return images


def nothing(count):
    never = np.zeros(count, bool)
    return Parameters(
        flip=never,
        jitter=never,
        order=np.tile(np.arange(4), (count, 1)),
        factors=np.tile(np.array([1, 1, 1, 0], np.float32), (count, 1)),
        grayscale=never,
        blur=never,
        sigma=np.ones(count, np.float32),
        solarise=never,
    )


@pytest.fixture(params=[augment_on_host, augment_on_device], ids=["host", "device"])
def augmented(request):
    """Return each of the two ways: the compiled kernel, and the batched operations, here on the CPU."""
    return request.param


def colours_after(augmented, images, **changed):
    """Augment, and undo the normalisation."""
    result = augmented(images, replace(nothing(len(images)), **changed))
    return result * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


@pytest.mark.parametrize(
    ("operation", "reference", "factors"),
    [
        (adjust_brightness, functional.adjust_brightness, [0.6, 1.0, 1.17, 1.4]),
        (adjust_contrast, functional.adjust_contrast, [0.6, 1.0, 1.17, 1.4]),
        (adjust_saturation, functional.adjust_saturation, [0.8, 1.0, 1.07, 1.2]),
        (adjust_hue, functional.adjust_hue, [-0.1, 0.0, 0.031, 0.1]),
    ],
)
def test_colour_operation_equals_torchvision_per_image(operation, reference, factors):
    images = photographs(4).float() / 255
    found = operation(images, torch.tensor(factors))
    for index, factor in enumerate(factors):
        torch.testing.assert_close(found[index], reference(images[index], factor), **FLOAT)


@pytest.mark.parametrize("side", [5, 24])
def test_blur_equals_torchvision_with_the_same_kernel_per_image(side):
    images, sigmas = photographs(4, side).float() / 255, [0.1, 0.7, 1.3, 2.0]
    size = 2 * min(6, side - 1) + 1
    found = gaussian_blur(images, torch.tensor(sigmas))
    for index, sigma in enumerate(sigmas):
        wanted = functional.gaussian_blur(images[index], [size, size], [sigma, sigma])
        torch.testing.assert_close(found[index], wanted, **FLOAT)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_blur_is_close_to_pillows_with_radius_sigma_away_from_borders(sigma):
    image = photographs(1, 64)[0]
    blurred = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
    wanted = torch.from_numpy(np.array(blurred)).permute(2, 0, 1).float() / 255
    found = gaussian_blur(image[None].float() / 255, torch.tensor([sigma]))[0]
    difference = (found - wanted)[:, 8:-8, 8:-8].abs()
    assert difference.mean() < 1 / 255
    assert difference.max() < 4 / 255  # Pillow approximates the Gaussian by boxes


def test_solarise_equals_torchvision_and_pillow_at_every_level():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = solarise(levels.float() / 255)
    torch.testing.assert_close(found, functional.solarize(levels.float() / 255, 128 / 255), **FLOAT)
    pillow = np.array(ImageOps.solarize(Image.fromarray(levels[0, 0].numpy()), 128))
    assert np.array_equal((found[0, 0] * 255).round().numpy(), pillow)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_jitter_applies_its_operations_in_the_order_of_each_image(augmented, order):
    images = photographs(3)
    factors = np.array([[1.3, 0.7, 1.1, 0.05]] * 3, np.float32)
    orders = np.array([order, [1, 3, 0, 2], order])
    found = colours_after(augmented, images, jitter=np.array([True, True, False]), order=orders, factors=factors)
    reference = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    ]
    for index in range(2):
        wanted = images[index].float() / 255
        pillow = Image.fromarray(images[index].permute(1, 2, 0).numpy())
        for number in orders[index]:
            wanted = reference[number](wanted, float(factors[index, number]))
            pillow = reference[number](pillow, float(factors[index, number]))
        torch.testing.assert_close(found[index], wanted, rtol=0, atol=1e-5)
        assert (
            found[index] - functional.to_tensor(pillow)
        ).abs().mean() < 3 / 255  # Pillow rounds each time, the hue to 256 levels
    torch.testing.assert_close(found[2], images[2].float() / 255, **FLOAT)


def test_flip_grayscale_blur_and_solarise_reach_only_the_chosen_images(augmented):
    images = photographs(4)
    colours = images.float() / 255
    chosen = np.array([True, False, True, False])
    wanted = {
        "flip": functional.hflip(colours),
        "grayscale": functional.rgb_to_grayscale(colours, 3),
        "blur": functional.gaussian_blur(colours, [13, 13], [1.0, 1.0]),
        "solarise": functional.solarize(colours, 128 / 255),
    }
    for name, reference in wanted.items():
        found = colours_after(augmented, images, **{name: chosen})
        torch.testing.assert_close(found[chosen], reference[chosen], rtol=0, atol=1e-5)
        torch.testing.assert_close(found[~chosen], colours[~chosen], rtol=0, atol=1e-5)


def test_untouched_images_are_normalised_as_torchvision_does(augmented):
    images = photographs(2)
    wanted = functional.normalize(images.float() / 255, MEAN, STD)
    torch.testing.assert_close(augmented(images, nothing(2)), wanted, rtol=0, atol=1e-5)


def test_input_is_left_alone_and_channels_last_input_gives_the_same(augmented):
    images = photographs(6)
    before = images.clone()
    parameters = draw_parameters(1, IDS[:6], PIPELINES["byol"][1])
    plain = augmented(images, parameters)
    assert torch.equal(images, before)
    assert torch.equal(augmented(images.contiguous(memory_format=torch.channels_last), parameters), plain)


@pytest.mark.parametrize("side", [5, 24, 40])
@pytest.mark.parametrize("view", [0, 1])
def test_host_and_device_agree_on_whatever_is_drawn(side, view):
    images, parameters = photographs(64, side), draw_parameters(view, IDS[:64], PIPELINES["byol"][view])
    host, device = augment_on_host(images, parameters), augment_on_device(images, parameters)
    difference = (host - device).abs()
    # A colour that rounding takes across the threshold is inverted by one and not by the other.
    crossed = torch.from_numpy(parameters.solarise)[:, None, None, None] & (difference > 1e-4)
    assert crossed.float().mean() < 1e-4
    torch.testing.assert_close(torch.where(crossed, device, host), device, rtol=0, atol=2e-5)


def test_tensors_on_the_cpu_take_the_hosts_way_on_any_number_of_threads(monkeypatch):
    images, parameters = photographs(7), draw_parameters(3, IDS[:7], PIPELINES["byol"][0])
    wanted = augment_on_host(images, parameters)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(augment(images, parameters), wanted)
    assert wanted.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("view", "blur", "solarised"), [(0, 1.0, 0.0), (1, 0.1, 0.2)])
def test_operations_occur_as_often_as_published(view, blur, solarised):
    drawn = draw_parameters(draws.stream(0, "rates"), IDS, PIPELINES["byol"][view])
    wanted = {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2, "blur": blur, "solarise": solarised}
    for name, rate in wanted.items():
        assert getattr(drawn, name).mean() == pytest.approx(rate, abs=0.02)


def test_values_fill_the_published_ranges_and_every_order_occurs():
    drawn = draw_parameters(draws.stream(0, "ranges"), IDS, PIPELINES["byol"][0])
    lows, highs = drawn.factors.min(0), drawn.factors.max(0)
    assert lows == pytest.approx([0.6, 0.6, 0.8, -0.1], abs=2e-3)
    assert highs == pytest.approx([1.4, 1.4, 1.2, 0.1], abs=2e-3)
    assert (drawn.sigma.min(), drawn.sigma.max()) == pytest.approx((0.1, 2.0), abs=2e-3)
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 5000 / 24 * 0.7


@pytest.mark.parametrize(("name", "saturation", "others", "hue"), [("moco", 0.4, 0.4, 0.1), ("simclr", 0.8, 0.8, 0.2)])
def test_baselines_treat_both_views_alike_with_their_own_colours(name, saturation, others, hue):
    first, second = PIPELINES[name]
    assert first == second
    drawn = draw_parameters(draws.stream(0, name), IDS, first)
    spans = np.array([others, others, saturation, hue])
    assert drawn.factors.max(0) - [1, 1, 1, 0] == pytest.approx(spans, abs=4e-3)
    assert [1, 1, 1, 0] - drawn.factors.min(0) == pytest.approx(spans, abs=4e-3)
    rates = {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2, "blur": 0.5, "solarise": 0}
    for operation, rate in rates.items():
        assert getattr(drawn, operation).mean() == pytest.approx(rate, abs=0.02)


def test_operations_draw_independently():
    drawn = draw_parameters(draws.stream(0, "independent"), IDS, PIPELINES["byol"][1])
    columns = [drawn.flip, drawn.jitter, drawn.grayscale, drawn.blur, drawn.solarise, drawn.sigma, *drawn.factors.T]
    correlations = np.corrcoef(np.stack([np.asarray(column, float) for column in columns])) - np.eye(len(columns))
    assert np.abs(correlations).max() < 0.06


def test_draws_are_keyed_by_image_alone():
    whole = draw_parameters(9, IDS[:10], PIPELINES["byol"][1])
    joined = concatenate(
        [draw_parameters(9, IDS[:4], PIPELINES["byol"][1]), draw_parameters(9, IDS[4:10], PIPELINES["byol"][1])]
    )
    other = draw_parameters(10, IDS[:10], PIPELINES["byol"][1])
    for entry in fields(Parameters):
        assert np.array_equal(getattr(whole, entry.name), getattr(joined, entry.name))
    assert not np.array_equal(whole.factors, other.factors)
