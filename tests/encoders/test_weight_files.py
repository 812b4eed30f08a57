"""Weights from elsewhere: recognised, taken whole, and refused where a single tensor is missing, wrong or too many."""

import json

import pytest
import safetensors.torch
import torch
import torchvision
from outside_files import Reference, mmcv_checkpoint, scrambled

from orl_ray.encoders.backbones import build_backbone
from orl_ray.encoders.heads import mlp_head
from orl_ray.encoders.naming import detectron2_name, huggingface_name
from orl_ray.encoders.weight_files import encoder_from, read_encoder

IMAGES = torch.randn(4, 3, 64, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path):
    def save(value, name="weights.pth"):
        if name.endswith(".safetensors"):
            safetensors.torch.save_file(value, tmp_path / name)
        else:
            torch.save(value, tmp_path / name)
        return str(tmp_path / name)

    return save


def features(network, images=IMAGES):
    with torch.inference_mode():
        return network.eval()(images)


def torchvision_network(architecture="resnet18"):
    network = scrambled(getattr(torchvision.models, architecture)())
    state = network.state_dict()
    network.fc = torch.nn.Identity()
    return network, state


class TestReference:
    """The published checkpoint layout, with weights of nobody."""

    @pytest.mark.parametrize("heads", [("head",), ("global_head", "local_intra_head", "local_inter_head")])
    def test_the_online_backbone_and_projector_are_taken(self, saved, heads):
        reference = scrambled(Reference(heads=heads))
        reference.online_net[0].fc = torch.nn.Identity()
        found = read_encoder(saved(mmcv_checkpoint(reference)))
        assert (found.layout, found.architecture) == ("reference", "resnet18")
        wanted = features(reference.online_net[0])
        assert torch.equal(features(found.backbone), wanted)
        projector = mlp_head(512, 16, 8)
        projector.load_state_dict(found.projector)
        assert torch.equal(features(projector, wanted), features(reference.neck, wanted))

    def test_the_full_size_is_taken(self, saved):
        found = read_encoder(saved(mmcv_checkpoint(Reference("resnet50", 4096, 256))))
        assert found.architecture == "resnet50"
        assert found.projector["0.weight"].shape == (4096, 2048)
        assert found.projector["3.weight"].shape == (256, 4096)

    def test_the_extracted_backbone_is_taken(self, saved):
        reference = scrambled(Reference())
        found = read_encoder(saved({"state_dict": reference.backbone.state_dict(), "author": "OpenSelfSup"}))
        assert (found.layout, found.projector) == ("torchvision", {})
        assert_equal(found.backbone, reference.backbone.state_dict())

    def test_aliases_that_differ_are_refused(self, saved):
        checkpoint = mmcv_checkpoint(scrambled(Reference()))
        checkpoint["state_dict"]["online_net.0.bn1.bias"] = checkpoint["state_dict"]["backbone.bn1.bias"] + 1
        with pytest.raises(ValueError, match=r"should be the same, but differ in online_net\.0\.bn1\.bias"):
            read_encoder(saved(checkpoint))

    def test_half_a_neck_is_refused(self, saved):
        checkpoint = mmcv_checkpoint(Reference())
        del checkpoint["state_dict"]["neck.fc1.weight"]
        with pytest.raises(ValueError, match=r"do not fit a projector"):
            read_encoder(saved(checkpoint))

    def test_code_in_a_checkpoint_is_never_run(self, saved, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (tmp_path.joinpath("exploded").touch, ())

        place = saved({"meta": Bomb(), "state_dict": Reference().state_dict()})
        with pytest.raises(ValueError, match="more than tensors and plain values"):
            read_encoder(place)
        assert not (tmp_path / "exploded").exists()


def assert_equal(backbone, wanted):
    state = backbone.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in state.items())


class TestOtherLibraries:
    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    @pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
    def test_torchvision_and_its_classifier(self, saved, name, architecture):
        network, state = torchvision_network(architecture)
        found = read_encoder(saved(state, name))
        assert (found.layout, found.architecture) == ("torchvision", architecture)
        assert torch.equal(features(found.backbone), features(network))

    def test_old_files_that_count_no_batches(self, saved):
        network, state = torchvision_network()
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        assert torch.equal(features(read_encoder(saved(state)).backbone), features(network))

    @pytest.mark.parametrize("prefix", ["", "resnet."])
    def test_transformers_with_and_without_a_classifier(self, saved, prefix):
        network, state = torchvision_network()
        renamed = {prefix + huggingface_name(k): v for k, v in state.items() if not k.startswith("fc.")}
        if prefix:
            renamed["classifier.1.weight"] = state["fc.weight"].clone()
        found = read_encoder(saved(renamed, "model.safetensors"))
        assert found.layout == "huggingface"
        assert torch.equal(features(found.backbone), features(network))

    @pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
    def test_detectron2(self, saved, prefix):
        network, state = torchvision_network()
        renamed = {prefix + detectron2_name(k): v for k, v in state.items() if not k.startswith("fc.")}
        found = read_encoder(saved({"model": renamed, "__author__": "someone"}))
        assert found.layout == "detectron2"
        assert torch.equal(features(found.backbone), features(network))

    def test_our_own_training_with_its_projector(self, saved):
        backbone, projector = scrambled(build_backbone("resnet18")), scrambled(mlp_head(512, 16, 8))
        modules = {"online.backbone.": backbone, "online.projector.": projector, "target.backbone.": backbone}
        state = {p + k: v.clone() for p, module in modules.items() for k, v in module.state_dict().items()}
        found = read_encoder(saved(state, "model.safetensors"))
        assert found.layout == "orl_ray"
        assert_equal(found.backbone, backbone.state_dict())
        assert found.projector.keys() == projector.state_dict().keys()

    def test_half_precision_becomes_float32(self, saved):
        _, state = torchvision_network()
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        found = read_encoder(saved(half, "model.safetensors")).backbone.state_dict()
        assert found["conv1.weight"].dtype == torch.float32
        assert torch.equal(found["conv1.weight"], half["conv1.weight"].float())


class TestRefusals:
    @pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
    @pytest.mark.parametrize("layout", ["torchvision", "huggingface", "detectron2", "reference"])
    def test_one_wrong_tensor_is_enough(self, layout, change):
        rename = {
            "torchvision": str,
            "huggingface": huggingface_name,
            "detectron2": detectron2_name,
            "reference": "backbone.{}".format,
        }[layout]
        state = {rename(name): tensor for name, tensor in build_backbone("resnet18").state_dict().items()}
        name = rename("layer3.1.bn2.running_var")
        if change == "missing":
            del state[name]
        elif change == "unexpected":
            state[name + "_2"] = torch.zeros(1)
        else:
            state[name] = torch.zeros(3)
        told = {"missing": "missing {}", "unexpected": "unexpected .*_2", "shape": "{} has shape"}[change]
        with pytest.raises(ValueError, match=told.format(r"layer3\.1\.bn2\.running_var")):
            encoder_from(state)

    def test_a_deeper_network_names_what_is_too_much(self):
        with pytest.raises(ValueError, match=r"unexpected layer3\.6\.conv1\.weight"):
            encoder_from(torchvision.models.resnet101().state_dict())

    def test_an_unknown_layout_names_what_it_begins_with(self):
        with pytest.raises(ValueError, match=r"no backbone of a known layout.*begin with blocks\.0\.attn"):
            encoder_from({"blocks.0.attn": torch.zeros(1)})

    def test_what_is_no_file_of_weights(self, saved, tmp_path):
        for name, content in (("a.safetensors", b"not one"), ("a.pth", b"neither")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name}: is no"):
                read_encoder(str(tmp_path / name))
        with pytest.raises(ValueError, match="no such file"):
            read_encoder(str(tmp_path / "nowhere.pth"))
        with pytest.raises(ValueError, match="does not hold tensors by name"):
            read_encoder(saved({"epoch": 3}))

    @pytest.mark.parametrize(
        ("name", "value"), [("downsample_in_bottleneck", True), ("hidden_act", "gelu"), ("model_type", "regnet")]
    )
    def test_a_configuration_of_another_network_is_refused(self, saved, tmp_path, name, value):
        state = {huggingface_name(key): tensor for key, tensor in build_backbone("resnet50").state_dict().items()}
        place = saved(state, "model.safetensors")
        configuration = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_bottleneck": False}
        (tmp_path / "config.json").write_text(json.dumps(configuration))
        assert read_encoder(place).architecture == "resnet50"
        (tmp_path / "config.json").write_text(json.dumps(configuration | {name: value}))
        with pytest.raises(ValueError, match=f"config.json beside it has {name}"):
            read_encoder(place)


class TestLibrariesThemselves:
    """Files that the libraries write, where they are installed."""

    def test_timm(self, saved):
        timm = pytest.importorskip("timm", reason="timm is not installed; the extra `export` brings it")
        network = scrambled(timm.create_model("resnet50", num_classes=7))
        found = read_encoder(saved(network.state_dict(), "model.safetensors"))
        with torch.inference_mode():
            wanted = network.forward_head(network.forward_features(IMAGES), pre_logits=True)
        torch.testing.assert_close(features(found.backbone), wanted, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("kind", ["ResNetModel", "ResNetForImageClassification"])
    def test_transformers(self, tmp_path, kind):
        reason = "transformers is not installed; the extra `export` brings it"
        transformers = pytest.importorskip("transformers", reason=reason)
        network = scrambled(getattr(transformers, kind)(transformers.ResNetConfig()))  # a ResNet-50
        network.save_pretrained(tmp_path)
        found = read_encoder(str(tmp_path / "model.safetensors"))
        body = getattr(network, "resnet", network)
        with torch.inference_mode():
            wanted = body(IMAGES).pooler_output.flatten(1)
        torch.testing.assert_close(features(found.backbone), wanted, rtol=1e-5, atol=1e-5)
