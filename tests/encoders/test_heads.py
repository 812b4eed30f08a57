"""The projectors of each method and the predictor head."""

import pytest
import torch
from torch import nn

from orl_ray.encoders.heads import PROJECTORS, load_projector, mlp_head


def test_head_is_linear_norm_relu_linear_without_a_last_bias_or_norm():
    head = mlp_head(5, 7, 3)
    assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert head[0].bias is not None
    assert head[3].bias is None
    assert head(torch.randn(4, 5)).shape == (4, 3)


def test_published_sizes_give_the_published_parameter_counts():
    projector = sum(parameter.numel() for parameter in mlp_head(2048, 4096, 256).parameters())
    predictor = sum(parameter.numel() for parameter in mlp_head(256, 4096, 256).parameters())
    assert round(projector / 1e6, 1) == 9.4  # specification 1.1
    assert round(predictor / 1e6, 1) == 2.1


@pytest.mark.parametrize("method", PROJECTORS)
def test_weights_tell_which_methods_projector_they_are_of(method):
    projector = PROJECTORS[method](5, 7, 3)
    loaded = load_projector(5, 7, 3, projector.state_dict())
    vectors = torch.randn(4, 5)
    assert torch.equal(loaded.eval()(vectors), projector.eval()(vectors))


def test_weights_of_no_projector_are_refused():
    with pytest.raises(ValueError, match=r"0\.weight are of no projector"):
        load_projector(5, 7, 3, {"0.weight": torch.ones(7, 5)})
