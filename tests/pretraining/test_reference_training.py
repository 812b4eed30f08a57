"""Five steps of each method equal an independent reference in float64: losses, gradients, weights and buffers."""

import pytest
import torch
from reference_methods import (
    ReferenceNetwork,
    ReferenceSGD,
    byol_losses,
    ema,
    moco_loss,
    move_target,
    rate,
    simclr_loss,
    target_of,
)

from orl_ray import config
from orl_ray.pretraining.networks import build_network
from orl_ray.pretraining.objectives import term_weights
from orl_ray.pretraining.optimisers import build_optimizer
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.schedules import Schedule

ENCODER = config.Encoder("resnet18", hidden=24, output=8)
IMAGES, BATCH, EPOCHS = 16, 6, 3  # three steps an epoch, the last one of four images
COMMON = {
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "last_batch": "short",
    "cosine": "epoch",
    "warmup_epochs": 1,
    "learning_rate": 0.5,
}
STEPS = 5


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_views(step, sides):
    generator = torch.Generator().manual_seed(step)
    count = BATCH if step % 3 < 2 else IMAGES - 2 * BATCH
    return {
        term: tuple(torch.randn(count, 3, side, side, generator=generator) + number for number in range(2))
        for term, side in sides.items()
    }


class Ours:
    """The library's networks, optimiser and schedule, put together as in a training."""

    def __init__(self, settings, stage):
        self.weights = term_weights(settings)
        self.stream = SampleStream(0, stage, IMAGES, BATCH, last_batch=settings.last_batch)
        self.schedule = Schedule.of(settings, self.stream)
        self.network = build_network(settings, ENCODER, tuple(self.weights), 3, stage, IMAGES)
        self.optimizer = build_optimizer(settings, self.network.online)

    def losses(self, views):
        losses, _ = self.network.losses(self.network.online, views, {})
        self.optimizer.zero_grad()
        torch.stack([self.weights[term] * losses[term] for term in losses]).sum().backward()
        return losses

    def move(self, step):
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(step)
        self.optimizer.step()
        self.network.after_step(self.schedule.ema_momentum(step))


def copy_of_start(ours, head, terms=()):
    reference = ReferenceNetwork(ENCODER.hidden, ENCODER.output, terms, head)
    reference.load_state_dict(ours.network.online.state_dict())
    return reference


def assert_equal(found, wanted, what):
    """Compare to 1e-10 of 1 or of the tensor's largest value."""
    limit = 1e-10 * max(1.0, wanted.detach().abs().max().item())
    torch.testing.assert_close(found, wanted, rtol=0, atol=limit, msg=lambda text: f"{what}: {text}")


def assert_same_gradients(ours, reference):
    for name, parameter in reference.named_parameters():
        assert_equal(ours.network.online.get_parameter(name).grad, parameter.grad, f"gradient of {name}")


def assert_same_tensors(ours, reference):
    state = reference.state_dict()
    for name, tensor in ours.state_dict().items():
        assert_equal(tensor, state[name], name)


@pytest.mark.parametrize(
    ("settings", "stage", "sides"),
    [
        (config.ImageLevel(**COMMON, view_size=48), "image_level", {"global": 48}),
        (
            config.ObjectLevel(**COMMON, view_size=48, patch_size=40, intra_weight=0.5, inter_weight=2.0),
            "object_level",
            {"global": 48, "intra": 40, "inter": 40},
        ),
    ],
    ids=["byol", "orl"],
)
def test_byol_and_orl_take_the_reference_steps(settings, stage, sides):
    ours = Ours(settings, stage)
    online = copy_of_start(ours, "byol", tuple(sides))
    target = target_of(online)
    optimizer = ReferenceSGD(online.parameters(), 0.9, 1e-4)
    total = EPOCHS * 3
    for step in range(STEPS):
        views = random_views(step, sides)
        wanted = byol_losses(online, target, views)
        online.zero_grad()
        sum(ours.weights[term] * loss for term, loss in wanted.items()).backward()
        found = ours.losses(views)
        for term, loss in wanted.items():
            assert_equal(found[term], loss, f"loss {term} of step {step}")
        assert_same_gradients(ours, online)
        optimizer.step(rate(step, 3, EPOCHS, 0.5 * BATCH / 256, 1))
        move_target(target, online, ema(step, total, 0.99 ** (BATCH / 512)))
        ours.move(step)
    assert_same_tensors(ours.network.online, online)
    assert_same_tensors(ours.network.target, target)


def test_moco_takes_the_reference_steps():
    settings = config.ImageLevel(
        **COMMON, view_size=48, method="moco", temperature=0.2, queue=7, ema_base=0.9, ema_final=0.9
    )
    ours = Ours(settings, "image_level")
    online = copy_of_start(ours, "moco")
    target = target_of(online)
    optimizer = ReferenceSGD(online.parameters(), 0.9, 1e-4)
    queue = list(ours.network.queue.clone())
    place = 0
    for step in range(STEPS):
        views = random_views(step, {"global": 48})
        wanted, keys = moco_loss(online, target, views["global"], queue, 0.2)
        online.zero_grad()
        wanted.backward()
        assert_equal(ours.losses(views)["global"], wanted, f"loss of step {step}")
        assert_same_gradients(ours, online)
        optimizer.step(rate(step, 3, EPOCHS, 0.5 * BATCH / 256, 1))
        move_target(target, online, 0.9 ** (BATCH / 512))
        for key in keys:
            queue[place] = key
            place = (place + 1) % len(queue)
        ours.move(step)
        assert_equal(ours.network.queue, torch.stack(queue), f"queue after step {step}")
    assert_same_tensors(ours.network.online, online)
    assert_same_tensors(ours.network.target, target)


@pytest.mark.parametrize("merged", [False, True], ids=["views by themselves", "views together"])
def test_simclr_takes_the_reference_steps(merged):
    settings = config.ImageLevel(**COMMON, view_size=48, method="simclr", temperature=0.5, merge_views=merged)
    ours = Ours(settings, "image_level")
    online = copy_of_start(ours, "simclr")
    optimizer = ReferenceSGD(online.parameters(), 0.9, 1e-4)
    for step in range(STEPS):
        views = random_views(step, {"global": 48})
        first, second = views["global"]
        if merged:
            projections = online.project(torch.cat([first, second])).chunk(2)
        else:
            projections = online.project(first), online.project(second)
        wanted = simclr_loss(*projections, 0.5)
        online.zero_grad()
        wanted.backward()
        assert_equal(ours.losses(views)["global"], wanted, f"loss of step {step}")
        assert_same_gradients(ours, online)
        optimizer.step(rate(step, 3, EPOCHS, 0.5 * BATCH / 256, 1))
        ours.move(step)
    assert_same_tensors(ours.network.online, online)


def test_merged_views_of_one_size_share_their_statistics():
    settings = config.ObjectLevel(**COMMON, view_size=48, patch_size=40, merge_views=True)
    ours = Ours(settings, "object_level")
    sides = {"global": 48, "intra": 40, "inter": 40}
    online = copy_of_start(ours, "byol", tuple(sides))
    views = random_views(0, sides)
    large = online.project(torch.cat(views["global"]))
    small = online.project(torch.cat([*views["intra"], *views["inter"]]))
    projections = {"global": large, "intra": small[: 2 * BATCH], "inter": small[2 * BATCH :]}
    found = ours.network.online(views)
    for term, pair in projections.items():
        wanted = online.predictors[term](pair).chunk(2)
        for number in range(2):
            assert_equal(found[term][number], wanted[number], f"{term} {number}")
