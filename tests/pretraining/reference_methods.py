"""The methods in plain PyTorch, written from the specification: none of the library's pre-training is used here.

Networks are torchvision's with heads spelled out; every loss, schedule and update is its own few lines.
"""

import copy
import math

import torch
import torchvision
from torch import nn


class ReferenceNetwork(nn.Module):
    """A ResNet-18, a projector, and a predictor a term (specification 1.1, 1.6)."""

    def __init__(self, hidden, output, terms=(), head="byol"):
        super().__init__()
        self.backbone = torchvision.models.resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        self.projector = {
            "byol": lambda: self.byol_head(512, hidden, output),
            "moco": lambda: nn.Sequential(nn.Linear(512, hidden), nn.ReLU(), nn.Linear(hidden, output)),
            "simclr": lambda: nn.Sequential(
                nn.Linear(512, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, output, bias=False),
                nn.BatchNorm1d(output),
            ),
        }[head]()
        self.predictors = nn.ModuleDict({term: self.byol_head(output, hidden, output) for term in terms})

    @staticmethod
    def byol_head(inputs, hidden, output):
        return nn.Sequential(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, output, bias=False)
        )

    def project(self, view):
        return self.projector(self.backbone(view))


def cosine(first, second):
    return (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))


def byol_losses(online, target, views):
    """Return each term's loss: l(z1, t2) + l(z2, t1), each view a batch of its own."""
    losses = {}
    for term, (first, second) in views.items():
        with torch.no_grad():
            target_first, target_second = target.project(first), target.project(second)
        predicted = [online.predictors[term](online.project(view)) for view in (first, second)]
        losses[term] = 2 * (1 - cosine(predicted[0], target_second).mean())
        losses[term] = losses[term] + 2 * (1 - cosine(predicted[1], target_first).mean())
    return losses


def moco_loss(online, target, views, queue, temperature):
    """Return the loss of view 1 as the query, and view 2's keys."""
    query = online.project(views[0])
    query = query / query.norm(dim=1, keepdim=True)
    with torch.no_grad():
        key = target.project(views[1])
        key = key / key.norm(dim=1, keepdim=True)
    total = 0
    for q, k in zip(query, key, strict=True):
        positive = torch.exp(q @ k / temperature)
        negatives = sum(torch.exp(q @ other / temperature) for other in queue)
        total = total - torch.log(positive / (positive + negatives))
    return total / len(query), key


def simclr_loss(first, second, temperature):
    """Return NT-Xent over all 2 n views, term by term."""
    views = torch.cat([first, second])
    views = views / views.norm(dim=1, keepdim=True)
    count = len(views)
    total = 0
    for i in range(count):
        others = [torch.exp(views[i] @ views[j] / temperature) for j in range(count) if j != i]
        partner = torch.exp(views[i] @ views[(i + count // 2) % count] / temperature)
        total = total - torch.log(partner / sum(others))
    return total / count


def rate(step, steps_per_epoch, epochs, peak, warmup_epochs):
    """Return the published learning rate: mmcv's cosine by epoch, its linear warm-up by iteration from 1e-4."""
    regular = peak / 2 * (1 + math.cos(math.pi * (step // steps_per_epoch) / epochs))
    warmup = warmup_epochs * steps_per_epoch
    return regular if step >= warmup else regular * (1 - (1 - step / warmup) * (1 - 1e-4))


def ema(step, total, base):
    return 1 - (1 - base) * (math.cos(math.pi * step / total) + 1) / 2


class ReferenceSGD:
    """SGD with momentum and weight decay on everything, by hand."""

    def __init__(self, parameters, momentum, decay):
        self.parameters, self.momentum, self.decay = list(parameters), momentum, decay
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate):
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            velocity.copy_(self.momentum * velocity + parameter.grad + self.decay * parameter)
            parameter.copy_(parameter - learning_rate * velocity)


@torch.no_grad()
def move_target(target, online, momentum):
    for name, parameter in target.named_parameters():
        if not name.startswith("predictors."):
            parameter.copy_(momentum * parameter + (1 - momentum) * online.get_parameter(name))


def target_of(online):
    return copy.deepcopy(online)
