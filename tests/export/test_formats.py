"""Every format: the library that it is for loads it by what the card says, and gives the same features."""

import importlib
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from detectron2_network import ResNet
from exported import (
    ARCHITECTURES,
    features_of,
    network_input,
    photographs,
    rendered,
    run_usage,
    trained_backbone,
    write_export,
)

from orl_ray.embeddings.vectors import colours
from orl_ray.encoders.weight_files import read_encoder
from orl_ray.export.formats import FORMATS
from orl_ray.scenes.decode import center_crop, resize_shorter


def library(name):
    """Import a library, or skip and say which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed ({error}); the extra `export` brings all but detectron2")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trained(request):
    return trained_backbone(request.param)


@pytest.fixture(scope="module")
def images(request):
    """Return 16 photographs as the network takes them; where there are none, rendered scenes, and say so."""
    try:
        root = request.getfixturevalue("scenes_root")
    except pytest.skip.Exception as skipped:
        warnings.warn(f"rendered scenes instead of photographs: {skipped}", stacklevel=1)
        return network_input(rendered())
    return network_input(photographs(root))


@pytest.fixture
def export(trained, tmp_path):
    return lambda name: (FORMATS[name].usage(trained), write_export(trained, name, tmp_path / name))


def assert_close(found, wanted):
    """Compare to 1e-5 of the largest value, which is above 1."""
    assert found.shape == wanted.shape
    assert np.abs(np.asarray(found) - np.asarray(wanted)).max() <= 1e-5 * float(wanted.abs().max())


def assert_same(found, wanted):
    assert_close(found, wanted)
    assert wanted.std(dim=0).mean() > 1e-3 * float(wanted.abs().max())  # they tell the images apart


def test_torchvision_gives_the_same_features_by_either_file(trained, images, export):
    usage, folder = export("torchvision")
    names = run_usage(usage, folder, images=images)
    assert_same(names["features"], features_of(trained, images))
    saved = torch.load(folder / "backbone.pth", weights_only=True)
    loaded = safetensors.torch.load_file(folder / "backbone.safetensors")
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_timm_gives_the_same_features_and_knows_how_to_prepare_images(trained, images, export):
    timm = library("timm")
    usage, folder = export("timm")
    names = run_usage(usage, folder, images=images)
    assert_same(names["features"], features_of(trained, images))
    with torch.inference_mode():
        assert_same(names["maps"][-1], trained.backbone.maps(images))
    data = timm.data.resolve_data_config(names["model"].pretrained_cfg)
    assert (data["interpolation"], data["input_size"], data["crop_pct"]) == ("bilinear", (3, 224, 224), 0.875)
    by_path = timm.create_model(trained.architecture, num_classes=0, checkpoint_path=folder / "model.safetensors")
    with torch.inference_mode():
        assert_same(by_path.eval()(images), features_of(trained, images))


def test_transformers_gives_the_same_features_and_misses_no_key(trained, images, export):
    transformers = library("transformers")
    _, folder = export("huggingface")
    model, told = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        assert_same(model.eval()(images).pooler_output.flatten(1), features_of(trained, images))


def test_transformers_prepares_images_as_the_embedding_does(trained, export):
    library("transformers")
    usage, folder = export("huggingface")
    scene = np.asarray(rendered()[0])
    names = run_usage(usage, folder, photographs=[scene])
    wanted = colours(torch.from_numpy(center_crop(resize_shorter(scene, 256), 224)[None]))
    assert (names["images"] - wanted).abs().max() < 0.05  # a grey level is 0.017
    assert names["features"].shape == (1, trained.backbone.features)


def test_detectron2s_network_takes_every_tensor_and_gives_the_same_features(trained, images, export):
    _, folder = export("detectron2")
    checkpoint = torch.load(folder / "backbone.pth", weights_only=True)
    assert checkpoint["matching_heuristics"] is True
    network = ResNet(trained.architecture).eval()
    network.load_state_dict(checkpoint["model"])  # strict: each name, each shape
    with torch.inference_mode():
        assert_same(network(images), features_of(trained, images))


def test_detectron2_itself_gives_the_same_maps(trained, images, export):
    library("detectron2")
    usage, folder = export("detectron2")
    on_cpu = usage.replace('"SyncBN"', '"BN"').replace("model = build", 'cfg.MODEL.DEVICE = "cpu"\nmodel = build')
    names = run_usage(on_cpu, folder)
    with torch.inference_mode():
        found = names["model"].eval().backbone.bottom_up(images)["res5"]
        assert_same(found, trained.backbone.maps(images))


def test_onnx_gives_the_same_features_for_any_number_and_size_of_images(trained, images, export):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        library(name)
    usage, folder = export("onnx")
    for some in (images, images[:1], images[:3, :, :97, :33]):
        names = run_usage(usage, folder, images=some.numpy())
        with torch.inference_mode():
            assert_close(names["maps"], trained.backbone.maps(some))
        assert_close(names["features"], features_of(trained, some))


@pytest.mark.parametrize("name", ["torchvision", "timm", "detectron2", "huggingface"])
def test_what_is_exported_is_read_again_bit_for_bit(trained, export, name):
    _, folder = export(name)
    (file,) = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth")][:1]
    found = read_encoder(str(file))
    assert found.architecture == trained.architecture
    wanted = trained.backbone.state_dict()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in found.backbone.state_dict().items())


@pytest.mark.parametrize("name", FORMATS)
def test_the_usage_on_the_card_is_the_one_that_is_tested(trained, export, name):
    if name == "onnx":
        library("onnxscript")
    usage, folder = export(name)
    card = (folder / "README.md").read_text()
    assert usage.strip() in card
    assert card.startswith("---\nlibrary_name: ")
