"""The BYOL losses and the online and target networks."""

import pytest
import torch
from torch.nn import functional

from orl_ray import config
from orl_ray.pretraining.objectives import (
    OnlineTarget,
    byol_loss,
    symmetrised_losses,
    term_weights,
)

ENCODER = config.Encoder("resnet18", hidden=6, output=4)
TERMS = ("global", "intra", "inter")


@pytest.fixture(scope="module")
def network():
    return OnlineTarget(ENCODER, TERMS, seed=0, stage="object_level")


def random_pairs(seed, terms=TERMS, size=(5, 4)):
    generator = torch.Generator().manual_seed(seed)
    return {term: tuple(torch.randn(size, generator=generator) for _ in range(2)) for term in terms}


def test_loss_is_two_minus_two_cosines():
    first, second = torch.randn(6, 4), torch.randn(6, 4)
    wanted = 2 * (1 - functional.cosine_similarity(first, second).mean())
    torch.testing.assert_close(byol_loss(first, second), wanted)
    assert byol_loss(first, 3 * first).item() == pytest.approx(0, abs=1e-6)
    assert byol_loss(first, -first).item() == pytest.approx(4, abs=1e-6)


def test_gradient_reaches_predictions_but_not_targets():
    first, second = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    byol_loss(first, second).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad is None


def test_sample_weights_select_samples():
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    weights = torch.tensor([2.0, 0, 2, 0])
    torch.testing.assert_close(byol_loss(first, second, weights), byol_loss(first[::2], second[::2]))


def test_half_precision_is_scored_in_single_precision():
    assert byol_loss(torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3)).dtype == torch.float32


def test_symmetrised_loss_pairs_each_view_with_the_other_ones_target():
    predictions, projections = random_pairs(0), random_pairs(1)
    losses = symmetrised_losses(predictions, projections, {"inter": torch.tensor([5.0, 0, 0, 0, 0])})
    for term in ("global", "intra"):
        wanted = byol_loss(predictions[term][0], projections[term][1])
        wanted = wanted + byol_loss(predictions[term][1], projections[term][0])
        torch.testing.assert_close(losses[term], wanted)
    one = {"inter": tuple(view[:1] for view in predictions["inter"])}
    only = symmetrised_losses(one, {"inter": tuple(view[:1] for view in projections["inter"])}, {})
    torch.testing.assert_close(losses["inter"], only["inter"])


def test_three_predictors_are_distinct_and_projector_and_backbone_are_one(network):
    weights = [network.online.predictors[term][0].weight for term in TERMS]
    assert len({weight.data_ptr() for weight in weights}) == 3
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    names = {name.split(".")[0] for name, _ in network.online.named_parameters()}
    assert names == {"backbone", "projector", "predictors"}


def test_target_starts_as_a_copy_without_gradients_or_predictors(network):
    target, online = network.target.state_dict(), network.online.state_dict()
    assert target.keys() == {name for name in online if not name.startswith("predictors.")}
    for name, parameter in network.target.named_parameters():
        assert not parameter.requires_grad
        assert parameter.data_ptr() != network.online.get_parameter(name).data_ptr()
        assert torch.equal(parameter, network.online.get_parameter(name))


def test_each_view_has_batch_statistics_of_its_own():
    network = OnlineTarget(ENCODER, ("global",), seed=0, stage="image_level")
    first, second = (torch.randn(4, 3, 32, 32) + shift for shift in (0, 2))
    together = network.online({"global": (first, second)})["global"][0]
    alone = network.online({"global": (first, first)})["global"][0]
    torch.testing.assert_close(together, alone)
    assert network.online.backbone.bn1.num_batches_tracked == 4
    assert network.target.backbone.bn1.num_batches_tracked == 0


def test_target_runs_in_training_mode_on_its_own_buffers():
    network = OnlineTarget(ENCODER, ("global",), seed=0, stage="image_level")
    views = torch.randn(2, 4, 3, 32, 32)
    projection = network.target({"global": (views[0], views[1])})["global"][0]
    assert not projection.requires_grad
    assert network.target.backbone.bn1.num_batches_tracked == 2
    assert network.online.backbone.bn1.num_batches_tracked == 0


def test_initial_weights_depend_on_seed_and_stage(network):
    same = OnlineTarget(ENCODER, ("global",), 0, "object_level").online.backbone.conv1.weight
    assert torch.equal(same, network.online.backbone.conv1.weight)
    for seed, stage in ((1, "object_level"), (0, "image_level")):
        other = OnlineTarget(ENCODER, ("global",), seed, stage).online.backbone.conv1.weight
        assert not torch.equal(same, other)


def test_update_moves_backbone_and_projector_only():
    network = OnlineTarget(ENCODER, ("global",), seed=0, stage="image_level")
    before = network.target.projector[0].weight.clone()
    with torch.no_grad():
        for parameter in network.online.parameters():
            parameter.add_(1)
    network.after_step(0.75)
    torch.testing.assert_close(network.target.projector[0].weight, before + 0.25)


def test_terms_without_weight_are_left_out():
    assert term_weights(config.ImageLevel()) == {"global": 1.0}
    assert term_weights(config.ObjectLevel(intra_weight=0, inter_weight=0.5)) == {"global": 1.0, "inter": 0.5}
    with pytest.raises(ValueError, match="all loss weights are zero"):
        term_weights(config.ObjectLevel(global_weight=0, intra_weight=0, inter_weight=0))
