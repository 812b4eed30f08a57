"""The state of a training by name: any optimiser's, whole, back in place."""

import pytest
import torch

from orl_ray import config
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.state import TrainingState

ENCODER = config.Encoder("resnet18", hidden=12, output=8)


class One:
    """A store of one checkpoint."""

    def __init__(self, checkpoint):
        self._checkpoint = checkpoint

    def latest(self):
        return self._checkpoint


def new_state(**settings):
    return TrainingState(config.ImageLevel(**settings), ENCODER, ("global",), 0, "image_level", Place(), images=6)


def step(state, seed):
    """Take an optimiser step along gradients that are drawn."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in state.network.online.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.01
    state.optimizer.step()
    state.step += 1


def test_momenta_of_sgd_have_the_names_of_their_parameters():
    names = {name for name in new_state().checkpoint().tensors if name.startswith("optimizer.")}
    assert names == {f"optimizer.{name}" for name, _ in new_state().network.online.named_parameters()}


def test_what_adam_holds_has_its_own_names_from_the_first_step_on():
    state = new_state(optimizer="adamw")
    names = {name.removeprefix("optimizer.") for name in state.checkpoint().tensors if "optimizer." in name}
    parameters = [name for name, _ in state.network.online.named_parameters()]
    assert names == {f"{name}.{kind}" for kind in ("exp_avg", "exp_avg_sq") for name in parameters}


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "lars"}, {"optimizer": "adamw"}, {"method": "moco", "queue": 4}, {"method": "simclr"}],
    ids=lambda settings: "-".join(map(str, settings.values())) or "sgd",
)
def test_a_restored_state_goes_on_bit_by_bit(settings):
    whole = new_state(**settings)
    step(whole, 1)
    saved = whole.checkpoint()
    step(whole, 2)
    resumed = new_state(**settings)
    resumed.resume(One(saved))
    step(resumed, 2)
    found, wanted = resumed.checkpoint(), whole.checkpoint()
    assert found.step == wanted.step == 2
    assert found.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.tensors.items())


def test_the_queue_of_moco_comes_back():
    whole = new_state(method="moco", queue=4)
    whole.network.queue.mul_(2.0)
    step(whole, 1)
    saved = whole.checkpoint()
    assert torch.equal(saved.tensors["queue"], whole.network.queue)
    resumed = new_state(method="moco", queue=4)
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
