"""Frozen encoders: the trained weights, in evaluation mode, and nothing that still learns."""

import pytest
import torch
from small_store import fresh_weights

from orl_ray.embeddings.encoder import FrozenEncoder, frozen_backbone, frozen_image_encoder, image_feature, load_weights
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.heads import PROJECTORS, mlp_head
from orl_ray.settings import load
from orl_ray.storage import StoreError

CONFIG = load("laptop", None, ["encoder.hidden=16", "encoder.output=8"])


@pytest.fixture(scope="module")
def weights():
    return fresh_weights(CONFIG, "image_level")


def images(count=2):
    return torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(0))


class TestFrozenEncoder:
    def test_learns_nothing_and_keeps_its_statistics(self, weights):
        encoder = frozen_image_encoder(CONFIG, weights)
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        encoder(images() * 100)
        assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())

    def test_computes_on_one_thread(self, weights):
        torch.set_num_threads(2)
        frozen_backbone(CONFIG, weights)
        assert torch.get_num_threads() == 1

    def test_a_projector_that_ends_in_no_linear_layer_is_refused(self):
        head = torch.nn.Sequential(torch.nn.Linear(512, 4), torch.nn.ReLU())
        with pytest.raises(TypeError, match="ends in a linear layer or a batch norm, not in ReLU"):
            FrozenEncoder(build_backbone("resnet18"), head, torch.device("cpu"))


class TestBackbone:
    def test_gives_pooled_features_of_the_trained_backbone(self, weights):
        trained = build_backbone("resnet18")
        initialise(trained, CONFIG.seed, "image_level", "backbone")
        encoder = frozen_backbone(CONFIG, weights)
        assert encoder.features == 512
        torch.testing.assert_close(encoder(images()), trained.eval()(images()))

    def test_without_weights_is_what_image_level_training_starts_from(self, weights):
        torch.testing.assert_close(frozen_backbone(CONFIG, None)(images()), frozen_backbone(CONFIG, weights)(images()))

    def test_weights_of_another_network_are_refused(self, weights):
        fewer = {name: tensor for name, tensor in weights.items() if "layer4" not in name}
        with pytest.raises(ValueError, match="missing layer4"):
            frozen_backbone(CONFIG, fewer)


class TestImageEncoder:
    def test_is_backbone_and_projector(self, weights):
        encoder = frozen_image_encoder(CONFIG, weights)
        projector = mlp_head(512, 16, 8)
        prefix = "online.projector."
        projector.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        assert encoder.features == 8
        torch.testing.assert_close(encoder(images()), projector.eval()(frozen_backbone(CONFIG, weights)(images())))

    @pytest.mark.parametrize("method", ["moco", "simclr"])
    def test_takes_the_projector_of_any_method(self, weights, method):
        projector = PROJECTORS[method](512, 16, 8)
        backbone = {name: tensor for name, tensor in weights.items() if name.startswith("online.backbone.")}
        own = {f"online.projector.{name}": tensor for name, tensor in projector.state_dict().items()}
        encoder = frozen_image_encoder(CONFIG, backbone | own)
        assert encoder.features == 8
        torch.testing.assert_close(encoder(images()), projector.eval()(frozen_backbone(CONFIG, weights)(images())))

    def test_is_the_backbone_alone_where_the_config_says_so(self, weights):
        config = load("laptop", None, ["mining.image_feature=backbone"])
        torch.testing.assert_close(
            frozen_image_encoder(config, weights)(images()), frozen_backbone(config, weights)(images())
        )

    def test_a_projector_of_other_widths_is_refused(self, weights):
        with pytest.raises(RuntimeError, match="size mismatch"):
            frozen_image_encoder(load("laptop", None, ["encoder.hidden=17", "encoder.output=8"]), weights)

    def test_is_the_backbone_where_the_weights_hold_no_projector(self, weights):
        alone = {name: tensor for name, tensor in weights.items() if ".projector." not in name}
        assert CONFIG.mining.image_feature == "projector"
        encoder = frozen_image_encoder(CONFIG, alone)
        assert image_feature(encoder) == "backbone"
        torch.testing.assert_close(encoder(images()), frozen_backbone(CONFIG, weights)(images()))

    def test_a_projector_that_lacks_a_layer_is_refused(self, weights):
        fewer = {name: tensor for name, tensor in weights.items() if name != "online.projector.3.weight"}
        with pytest.raises(ValueError, match="of no projector known here"):
            frozen_image_encoder(CONFIG, fewer)

    def test_says_what_it_gives(self, weights):
        assert image_feature(frozen_image_encoder(CONFIG, weights)) == "projector"
        assert image_feature(frozen_backbone(CONFIG, weights)) == "backbone"


class TestLoading:
    def test_weights_come_back_as_they_were_written(self, finished):
        read = load_weights(finished.store, "image_level", finished.plan("image_level").key)
        wanted = fresh_weights(finished.config, "image_level")
        assert read.keys() == wanted.keys()
        assert all(torch.equal(read[name], wanted[name]) for name in wanted)

    def test_a_training_that_is_not_there_is_told(self, finished):
        with pytest.raises(StoreError, match="object_level abc: no such training; run the pipeline again"):
            load_weights(finished.store, "object_level", "abc")
