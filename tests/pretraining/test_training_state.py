"""The state of a training by name: any optimiser's, whole, back in place."""

import copy

import pytest
import torch

from orl_ray import config
from orl_ray.pretraining import state as state_module
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.state import TrainingState, allocate_optimizer_state

ENCODER = config.Encoder("resnet18", hidden=12, output=8)


class One:
    """A store of one checkpoint."""

    def __init__(self, checkpoint):
        self._checkpoint = checkpoint

    def latest(self):
        return self._checkpoint


def adamw(settings, network):
    return torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=settings.weight_decay)


def new_state():
    return TrainingState(config.ImageLevel(), ENCODER, ("global",), 0, "image_level", Place())


def step(state, seed):
    """Take an optimiser step along gradients that are drawn."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in state.network.online.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.01
    state.optimizer.step()
    state.step += 1


@pytest.fixture
def with_adamw(monkeypatch):
    monkeypatch.setattr(state_module, "build_optimizer", adamw)


def test_momenta_of_sgd_have_the_names_of_their_parameters():
    names = {name for name in new_state().checkpoint().tensors if name.startswith("optimizer.")}
    assert names == {f"optimizer.{name}" for name, _ in new_state().network.online.named_parameters()}


def test_what_adam_holds_has_its_own_names_from_the_first_step_on(with_adamw):
    names = {name.removeprefix("optimizer.") for name in new_state().checkpoint().tensors if "optimizer." in name}
    parameters = [name for name, _ in new_state().network.online.named_parameters()]
    assert names == {f"{kind}.{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name in parameters}


@pytest.mark.parametrize("optimizer", [state_module.build_optimizer, adamw])
def test_a_restored_state_goes_on_bit_by_bit(monkeypatch, optimizer):
    monkeypatch.setattr(state_module, "build_optimizer", optimizer)
    whole = new_state()
    step(whole, 1)
    saved = whole.checkpoint()
    step(whole, 2)
    resumed = new_state()
    resumed.resume(One(saved))
    step(resumed, 2)
    found, wanted = resumed.checkpoint(), whole.checkpoint()
    assert found.step == wanted.step == 2
    assert found.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.tensors.items())


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_first_step_from_allocated_state_is_that_of_a_new_optimizer(kind):
    builders = {
        "sgd": lambda weights: torch.optim.SGD(weights, lr=0.0, momentum=0.9, weight_decay=0.1),
        "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.0, weight_decay=0.1),
    }
    one = torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    other = copy.deepcopy(one)
    optimizers = [builders[kind]([weight]) for weight in (one, other)]
    allocate_optimizer_state(optimizers[0])
    assert torch.equal(one, other)
    for weight, optimizer in zip((one, other), optimizers, strict=True):
        weight.grad = torch.ones(3, 4)
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.zeros_like(one))


def test_state_that_is_no_tensor_is_refused():
    class Counting(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["steps"] = 1

    with pytest.raises(TypeError, match="Counting holds steps as a int"):
        allocate_optimizer_state(Counting([torch.nn.Parameter(torch.zeros(2))], lr=0.0))


def test_a_buffer_of_the_network_comes_back(with_adamw):
    whole = new_state()
    whole.network.register_buffer("queue", torch.arange(6.0).view(2, 3))
    step(whole, 1)
    saved = whole.checkpoint()
    assert torch.equal(saved.tensors["queue"], whole.network.queue)
    resumed = new_state()
    resumed.network.register_buffer("queue", torch.zeros(2, 3))
    resumed.resume(One(saved))
    assert torch.equal(resumed.network.queue, whole.network.queue)


def test_each_change_of_the_number_of_workers_is_noted_once():
    state = new_state()
    state.resume(One(None))
    assert state.workers == ((0, 1),)
    tensors = state.checkpoint().tensors
    again = new_state()
    again.resume(One(Checkpoint(7, tensors, [], ((0, 1),))))
    assert again.workers == ((0, 1),)
    fewer = new_state()
    fewer.resume(One(Checkpoint(7, tensors, [], ((0, 2), (4, 3)))))
    assert fewer.workers == ((0, 2), (4, 3), (7, 1))


def test_what_is_not_finite_is_named():
    state = new_state()
    with torch.no_grad():
        state.network.online.projector[0].bias[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"online\.projector\.0\.bias is not finite"):
        state.checkpoint()
