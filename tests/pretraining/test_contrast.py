"""MoCo's queue and what both contrastive methods keep apart; their steps are in test_reference_training."""

import pytest
import torch

from orl_ray import config
from orl_ray.pretraining.contrast import MomentumContrast, SimCLR, batch_losses, queue_losses, unit

ENCODER = config.Encoder("resnet18", hidden=6, output=4)


def moco(queue=100, images=7):
    return MomentumContrast(ENCODER, config.ImageLevel(method="moco", queue=queue), images, 0, "image_level")


def rows(count, seed=0):
    return unit(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("queue", "images", "length"), [(100, 7, 7), (5, 7, 5)])
def test_queue_is_never_longer_than_the_collection(queue, images, length):
    network = moco(queue, images)
    assert network.queue.shape == (length, 4)
    torch.testing.assert_close(network.queue.norm(dim=1), torch.ones(length))


def test_queue_starts_from_the_seed_and_is_part_of_the_state():
    first, second = moco(), moco()
    assert torch.equal(first.queue, second.queue)
    assert {"queue", "queue_start"} <= first.state_dict().keys()
    other = MomentumContrast(ENCODER, config.ImageLevel(method="moco"), 7, 1, "image_level")
    assert not torch.equal(first.queue, other.queue)


def test_queue_takes_the_keys_of_all_forwards_of_a_step_in_their_order():
    network, views = moco(images=5), [torch.randn(2, 3, 32, 32) for _ in range(4)]
    before = network.queue.clone()
    with torch.no_grad():
        keys = [network.losses(network.online, {"global": pair}, {})[1][1] for pair in (views[:2], views[2:])]
    network.after_step(1.0)
    assert torch.equal(network.queue, torch.cat([*keys, before[4:]]))
    assert network.queue_start == 4
    with torch.no_grad():
        _, later = network.losses(network.online, {"global": views[:2]}, {})[1]
    network.after_step(1.0)
    assert torch.equal(network.queue[4], later[0])
    assert torch.equal(network.queue[0], later[1])
    assert network.queue_start == 1


def test_queue_shorter_than_a_batch_keeps_its_last_keys():
    network = moco(queue=3)
    with torch.no_grad():
        _, keys = network.losses(network.online, {"global": torch.randn(2, 4, 3, 32, 32)}, {})[1]
    network.after_step(1.0)
    assert torch.equal(network.queue, keys[1:])


def test_gradients_reach_queries_but_no_key():
    network = moco()
    losses, _ = network.losses(network.online, {"global": torch.randn(2, 4, 3, 32, 32)}, {})
    losses["global"].backward()
    assert all(parameter.grad is not None for parameter in network.online.parameters())
    assert all(parameter.grad is None for parameter in network.target.parameters())


def test_a_query_equal_to_its_key_and_opposite_to_the_queue_costs_least():
    queries = rows(3)
    best = queue_losses(queries, queries, -queries[:1].expand(5, -1), 0.2)
    worst = queue_losses(queries, -queries, queries[:1].expand(5, -1), 0.2)
    assert best[0] < 0.01
    assert worst[0] > 9
    uniform = queue_losses(queries, torch.zeros(3, 4), torch.zeros(7, 4), 0.2)
    torch.testing.assert_close(uniform, torch.full((3,), 8.0).log())


def test_no_view_is_its_own_partner():
    losses = batch_losses(
        rows(4), rows(4), 1e-3
    )  # equal views: a partner can only be told from others, not from itself
    torch.testing.assert_close(losses, torch.zeros(4), atol=1e-5, rtol=0)


def test_sample_weights_select_samples():
    network = SimCLR(ENCODER, config.ImageLevel(method="simclr"), 0, "image_level")
    views = {"global": torch.randn(2, 4, 3, 32, 32)}
    weights = torch.tensor([4.0, 0, 0, 0])
    found = network.losses(network.online, views, {"global": weights})[0]["global"]
    first, second = (unit(projection) for projection in network.online(*views["global"]))
    torch.testing.assert_close(found, batch_losses(first, second, network.temperature)[0])


def test_no_samples_cost_nothing():
    empty = torch.empty(0, 4)
    assert queue_losses(empty, empty, rows(3), 0.2).shape == (0,)


@pytest.mark.parametrize("losses", [lambda a, b: batch_losses(a, b, 0.1), lambda a, b: queue_losses(a, b, b, 0.2)])
def test_losses_are_in_full_precision_under_autocast(losses):
    first, second = rows(4), rows(4, seed=1)
    wanted = losses(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(first, second)
    assert torch.equal(found, wanted)
