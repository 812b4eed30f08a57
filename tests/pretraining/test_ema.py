"""The moving average of the target."""

import pytest
import torch
from torch import nn

from orl_ray import config
from orl_ray.pretraining.ema import update_target
from orl_ray.pretraining.objectives import OnlineTarget


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


def test_the_average_is_of_float32_weights_under_autocast():
    network = OnlineTarget(config.Encoder("resnet18", hidden=6, output=4), ("global",), 0, "image_level")
    before = network.target.projector[0].weight.clone()
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = network.losses(network.online, {"global": torch.randn(2, 4, 3, 32, 32)}, {})
        losses["global"].backward()
        with torch.no_grad():
            for parameter in network.online.parameters():
                parameter.add_(1)
        network.after_step(1 - 1e-5)  # a step that bfloat16 would round away
    assert losses["global"].dtype == torch.float32
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    torch.testing.assert_close(
        network.target.projector[0].weight - before, torch.full_like(before, 1e-5), rtol=2e-2, atol=0
    )
