"""Weights from elsewhere as the encoder of a run: what is stored, what a run makes of it, what is refused."""

from dataclasses import replace

import pytest
import torch
from outside_files import Reference, mmcv_checkpoint, scrambled
from safetensors.torch import load, save_file
from small_store import SmallStore

from orl_ray.config import flatten
from orl_ray.embeddings.encoder import frozen_image_encoder, image_feature, load_weights
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.export.model_card import model_card
from orl_ray.export.trained import find_trained
from orl_ray.graph import main_job
from orl_ray.housekeeping.garbage import find_garbage
from orl_ray.interchange.commands import import_command
from orl_ray.pins import resolve_pins
from orl_ray.pipeline import State


@pytest.fixture
def empty(tmp_path):
    return SmallStore.new(tmp_path / "store")


@pytest.fixture
def backbone_file(tmp_path):
    """Return a file of torchvision's layout, and its tensors."""
    backbone = build_backbone("resnet18")
    initialise(backbone, 5, "elsewhere")
    save_file(backbone.state_dict(), tmp_path / "outside.safetensors")
    return tmp_path / "outside.safetensors", backbone.state_dict()


def settings(small):
    return [f"{name}={value}" for name, value in flatten(small.config).items()]


def imported(small, file, capsys):
    """Import a file; return the store under the settings that the command says."""
    assert import_command(["encoder", str(file), *settings(small)]) == 0
    freeze = capsys.readouterr().out.split()[-1].removeprefix("freeze=")
    return SmallStore(replace(small.config, freeze=freeze), small.store)


def test_a_store_without_scenes_takes_it_and_a_run_uses_it(empty, backbone_file, capsys):
    file, wanted = backbone_file
    small = imported(empty, file, capsys)
    pin = resolve_pins(small.config, small.store)["image_level"]
    weights = load_weights(small.store, "image_level", pin.key)
    assert {name.removeprefix("online.backbone."): tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    encoder = frozen_image_encoder(small.config, weights)
    assert image_feature(encoder) == "backbone"
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in encoder.backbone.state_dict().items())
    assert "image_level" not in small.make()  # all the way to the report, with no training on images
    assert small.plan("report").state is State.DONE
    vectors = small.tables("image_embeddings")[0]["vector"]
    assert vectors.type.list_size == 512


def test_the_references_checkpoint_brings_its_projector(empty, tmp_path, capsys):
    reference = scrambled(Reference("resnet18", empty.config.encoder.hidden, empty.config.encoder.output))
    torch.save(mmcv_checkpoint(reference), tmp_path / "epoch_800.pth")
    small = imported(empty, tmp_path / "epoch_800.pth", capsys)
    pin = resolve_pins(small.config, small.store)["image_level"]
    encoder = frozen_image_encoder(small.config, load_weights(small.store, "image_level", pin.key))
    assert image_feature(encoder) == "projector"
    images = torch.randn(3, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        reference.backbone.fc = torch.nn.Identity()
        wanted = reference.neck(reference.backbone(images))
    torch.testing.assert_close(encoder(images), wanted, rtol=1e-5, atol=1e-5)


def test_importing_again_changes_nothing_and_no_clean_up_takes_it(empty, backbone_file, capsys):
    file, _ = backbone_file
    first, second = (imported(empty, file, capsys) for _ in range(2))
    assert first.config.freeze == second.config.freeze
    garbage = find_garbage(empty.store, [stage.name for stage in main_job()])
    assert "image_level" not in garbage.keys


def test_its_backbone_can_be_exported_and_the_card_says_that_it_is_not_ours(empty, backbone_file, capsys):
    file, wanted = backbone_file
    small = imported(empty, file, capsys)
    content = small.config.freeze.partition("@")[2]
    found = find_trained(small.store, f"image_level@{content}")
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.backbone.state_dict().items())
    assert "taken from a file of layout torchvision, not trained here" in model_card(found, "timm", "pass")
    stored = load(small.store.read_file("image_level", found.record.key, "backbone.safetensors"))
    assert stored.keys() == wanted.keys()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["encoder.backbone=resnet50"], "set encoder.backbone=resnet18"),
        (["again.safetensors"], "an encoder is one file"),
        (["--order", "coco.json"], "needs no --order"),
    ],
)
def test_what_does_not_go_together_is_refused(empty, backbone_file, capsys, change, told):
    own = [entry for entry in settings(empty) if entry.partition("=")[0] != change[0].partition("=")[0]]
    assert import_command(["encoder", str(backbone_file[0]), *own, *change]) == 2
    assert told in capsys.readouterr().err


def test_a_projector_of_other_sizes_is_refused(empty, tmp_path, capsys):
    torch.save(mmcv_checkpoint(Reference("resnet18", 24, 8)), tmp_path / "epoch_800.pth")
    assert import_command(["encoder", str(tmp_path / "epoch_800.pth"), *settings(empty)]) == 2
    assert "set encoder.hidden=24" in capsys.readouterr().err
    assert not empty.store.present("image_level")
