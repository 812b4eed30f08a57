"""Features of image files against torchvision's transforms and the backbone itself."""

import numpy as np
import published_layouts
import pytest
import torch
from PIL import Image
from torchvision import transforms

from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.evaluation import frozen_features as module
from orl_ray.evaluation.frozen_features import frozen_features
from orl_ray.evaluation.image_views import central, read


@pytest.fixture(scope="module")
def encoder():
    backbone = build_backbone("resnet18")
    initialise(backbone, 0, "features")
    return FrozenEncoder(backbone, None, torch.device("cpu"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    sizes = [(300, 260), (280, 400), (90, 70)]
    for number, size in enumerate(sizes):
        published_layouts.picture(folder / f"{number}.jpg", number, number, size)
    return tuple(folder / f"{number}.jpg" for number in range(len(sizes)))


def test_images_are_resized_and_warped_as_published_and_pooled_by_layer(encoder, paths, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    found = frozen_features(encoder, paths, ["res5", "pooled", "res3"], threads=2)
    with torch.inference_mode():
        network = encoder.backbone
        shallow = network.layer2(network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(images))))))
        deep = network.layer4(network.layer3(shallow))
        expected = {
            "res3": torch.nn.AvgPool2d(13, 5)(shallow).flatten(1),
            "res5": torch.nn.AvgPool2d(6, 1)(deep).flatten(1),
            "pooled": network(images),
        }
    assert {name: values.shape for name, values in found.items()} == {
        "res5": (3, 2048),
        "pooled": (3, 512),
        "res3": (3, 2048),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), rtol=1e-3, atol=1e-4 * float(values.abs().max()))


def test_the_view_for_scoring_is_torchvisions(paths):
    transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for path in paths:
        assert (central(224)(read(path)) == np.asarray(transform(Image.open(path)))).all()


def test_an_unknown_feature_and_a_missing_file_are_refused(encoder, paths, tmp_path):
    with pytest.raises(ValueError, match="'feat5'"):
        frozen_features(encoder, paths, ["feat5"], threads=1)
    with pytest.raises(ValueError, match=r"nowhere\.jpg cannot be read"):
        frozen_features(encoder, [tmp_path / "nowhere.jpg"], ["pooled"], threads=1)
