"""The optimisers: LARS against its formula, what is spared, and a state that checkpoints can hold."""

import pytest
import torch
from torch import nn

from orl_ray import config
from orl_ray.pretraining.optimisers import build_optimizer, optimizer_tensors, set_step


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).double()


def steps(optimizer, model, count, rate=0.5):
    """Take steps on a loss that differs from step to step; return the gradients of each."""
    gradients = []
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        for group in optimizer.param_groups:
            group["lr"] = rate / (step + 1)
        optimizer.step()
    return gradients


@pytest.mark.parametrize("exempt", [False, True])
def test_lars_follows_its_formula(exempt):
    settings = config.Pretraining(optimizer="lars", weight_decay=0.1, exempt_norms_and_biases=exempt)
    model = network()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    velocities = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for step, gradients in enumerate(steps(build_optimizer(settings, model), model, 4)):
        for name, gradient in gradients.items():
            spared = exempt and weights[name].ndim == 1
            decay = 0.0 if spared else 0.1
            size, slope = weights[name].norm().item(), gradient.norm().item()
            trust = 1.0 if spared or size == 0 else 0.001 * size / (slope + decay * size)
            velocities[name] = 0.9 * velocities[name] + 0.5 / (step + 1) * trust * (gradient + decay * weights[name])
            weights[name] = weights[name] - velocities[name]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, weights[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_norms_and_biases_are_spared_their_decay_only_when_asked(optimizer):
    for exempt, spared in ((False, set()), (True, {"0.bias", "1.weight", "1.bias", "3.bias"})):
        settings = config.Pretraining(optimizer=optimizer, weight_decay=0.3, exempt_norms_and_biases=exempt)
        model = network()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        decays = {
            names[id(parameter)]: group["weight_decay"]
            for group in build_optimizer(settings, model).param_groups
            for parameter in group["params"]
        }
        assert decays == {name: 0.0 if name in spared else 0.3 for name in names.values()}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_prepared_state_changes_no_step_of_torchs_optimisers(name):
    settings = config.Pretraining(optimizer=name, weight_decay=0.1)
    model, reference = network(), network()
    plain = {
        "sgd": lambda: torch.optim.SGD(reference.parameters(), momentum=0.9, weight_decay=0.1),
        "adamw": lambda: torch.optim.AdamW(reference.parameters(), weight_decay=0.1),
    }[name]()
    steps(build_optimizer(settings, model), model, 3)
    steps(plain, reference, 3)
    for parameter, wanted in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(parameter, wanted)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_the_tensors_and_the_step_are_the_whole_state(name):
    settings = config.Pretraining(optimizer=name)
    model, resumed = network(), network()
    optimizer, other = build_optimizer(settings, model), build_optimizer(settings, resumed)
    steps(optimizer, model, 3)
    resumed.load_state_dict(model.state_dict())
    saved = dict(optimizer_tensors(optimizer, model))
    for entry, tensor in optimizer_tensors(other, resumed):
        tensor.copy_(saved[entry])
    set_step(other, 3)
    steps(optimizer, model, 2)
    steps(other, resumed, 2)
    for parameter, wanted in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(parameter, wanted)


def test_sgds_momenta_have_the_names_of_older_checkpoints():
    model = network()
    names = [name for name, _ in optimizer_tensors(build_optimizer(config.Pretraining(), model), model)]
    assert names == [f"optimizer.{name}" for name, _ in model.named_parameters()]


def test_lars_keeps_parameters_without_a_gradient_and_takes_no_closure():
    model = network()
    optimizer = build_optimizer(config.Pretraining(optimizer="lars"), model)
    before = model[0].weight.clone()
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match="takes no closure"):
        optimizer.step(lambda: 0.0)
