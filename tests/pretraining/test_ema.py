"""The moving average of the target."""

import pytest
import torch
from torch import nn

from orl_ray.pretraining.ema import update_target


def networks():
    return tuple(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_parameters_are_averaged(momentum):
    target, online = networks()
    before = [parameter.detach().clone() for parameter in target.parameters()]
    update_target(target, online, momentum)
    for old, new, source in zip(before, target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * source)


def test_buffers_and_the_online_network_stay_as_they_are():
    target, online = networks()
    online(torch.randn(6, 3))
    source = [tensor.clone() for tensor in online.state_dict().values()]
    update_target(target, online, 0.5)
    assert torch.equal(target[1].running_mean, torch.zeros(4))
    assert target[1].num_batches_tracked == 0
    assert all(torch.equal(old, new) for old, new in zip(source, online.state_dict().values(), strict=True))
