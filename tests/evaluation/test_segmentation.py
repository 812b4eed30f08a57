"""The pixel classifier: where its cells lie; telling features score high, and features that tell nothing by chance."""

import numpy as np
import pytest
import torch
from PIL import Image

from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.evaluation.mean_iou import IGNORE, mean_iou
from orl_ray.evaluation.segmentation import (
    PixelClassifier,
    Protocol,
    at_pixels,
    predictions,
    score_pixel_classifier,
    train_pixel_classifier,
)
from orl_ray.evaluation.segmentation_layouts import SegmentedImages

CPU = torch.device("cpu")
TINY = Protocol(longer=64, stages=("layer1",), epochs=12, batch=4, rate=1.0)


@pytest.fixture
def backbone():
    network = build_backbone("resnet18")
    initialise(network, 1, "segmentation")
    return network


def halves(folder, count, colourful=True):
    """Write images whose left part is dark or light, and whose right part is the other; labels say which, if at all."""
    rng, files, maps = np.random.default_rng(0), [], []
    for number in range(count):
        labels = np.zeros((48, 64), np.uint8)
        edge = int(rng.integers(16, 48))
        labels[:, edge:] = 1
        labels = labels if number % 2 else 1 - labels
        shades = np.where(labels, 210, 40) if colourful else np.full_like(labels, 120)
        image = np.clip(shades[..., None] + rng.normal(0, 8, (48, 64, 3)), 0, 255).astype(np.uint8)
        files.append(folder / f"{number}.png")
        Image.fromarray(image).save(files[-1])
        labels[:2] = IGNORE
        maps.append(labels)
    return SegmentedImages("halves", tuple(files), maps.__getitem__, ("dark", "light"))


def scored(backbone, data, protocol=TINY):
    network = train_pixel_classifier(backbone, data, protocol, 0, CPU)
    return mean_iou(score_pixel_classifier(network, data, protocol.longer, CPU))


def test_features_that_tell_the_classes_apart_score_high(backbone, tmp_path):
    assert scored(backbone, halves(tmp_path, 8)) > 0.9


def test_features_that_do_not_score_as_a_guess_does(backbone, tmp_path):
    data = halves(tmp_path, 8, colourful=False)
    assert 0.2 < scored(backbone, data) < 0.45  # a fair coin: 1/3


def test_the_result_is_a_function_of_the_seed(backbone, tmp_path):
    data = halves(tmp_path, 4)
    short = Protocol(longer=64, stages=("layer1",), epochs=2, batch=4)
    first, again, other = (train_pixel_classifier(backbone, data, short, seed, CPU) for seed in (0, 0, 1))
    assert torch.equal(first.linear.weight, again.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_the_backbone_is_left_as_it_was(backbone, tmp_path):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    train_pixel_classifier(backbone, halves(tmp_path, 2), TINY, 0, CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_maps_of_several_stages_lie_over_each_other(backbone):
    network = PixelClassifier(backbone, ("layer2", "layer4"), 3, 0).eval()
    image = torch.randn(1, 3, 70, 45)
    maps = network.maps(image)
    assert maps.shape == (1, 128 + 512, 9, 6)
    assert torch.equal(maps[:, :128], backbone.get_submodule("layer2")(_until(backbone, image, "layer1")))
    coarse = backbone.maps(image)  # cell (i, j) of it lies where cell (4 i, 4 j) of the fine one does
    torch.testing.assert_close(maps[:, 128:, ::4, ::4], coarse)
    assert network.logits(maps, (70, 45)).shape == (1, 3, 70, 45)


def _until(backbone, image, last):
    for name, child in backbone.named_children():
        image = child(image)
        if name == last:
            return image
    raise AssertionError(last)


def test_a_cell_lies_on_the_pixel_that_it_is_centred_on():
    maps = torch.tensor([[[[0.0, 8.0], [16.0, 24.0]]]])
    found = at_pixels(maps, 8, (12, 11))[0, 0]
    assert found[0, :9].tolist() == list(range(9))  # linear from cell to cell
    assert found[0, 8:].tolist() == [8.0, 8.0, 8.0]  # repeated beyond the last
    assert found[8, 0] == found[11, 0] == 16.0
    assert found[8, 8] == 24.0


def test_predictions_have_the_size_of_the_label_map(backbone, tmp_path):
    data = halves(tmp_path, 1)
    network = PixelClassifier(backbone, ("layer3",), 2, 0)
    ((predicted, labels),) = predictions(network, data, 40, CPU)
    assert predicted.shape == labels.shape == (48, 64)


def test_a_label_map_of_another_size_is_refused(backbone, tmp_path):
    data = halves(tmp_path, 1)
    wrong = SegmentedImages("wrong", data.images, lambda _at: np.zeros((64, 48), np.uint8), data.classes)
    with pytest.raises(ValueError, match=r"\(48, 64\) pixels with a label map of \(64, 48\)"):
        train_pixel_classifier(backbone, wrong, TINY, 0, CPU)


@pytest.mark.parametrize("stages", [(), ("layer4", "layer3"), ("conv1",)])
def test_stages_that_are_none_are_refused(backbone, stages):
    with pytest.raises(ValueError, match="finest first"):
        PixelClassifier(backbone, stages, 2, 0)
