"""Weights as others save them, with random tensors of the true names, shapes and order."""

import torch
import torchvision
from torch import nn


class Neck(nn.Module):
    """The reference's ``NonLinearNeckSimCLR`` as its configurations set it (specification 1.1)."""

    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.fc0, self.bn0 = nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden)
        self.fc1 = nn.Linear(hidden, outputs, bias=False)

    def forward(self, features):
        return self.fc1(torch.relu(self.bn0(self.fc0(features))))


class Head(nn.Module):
    """The reference's ``LatentPredictHead``."""

    def __init__(self, outputs, hidden):
        super().__init__()
        self.predictor = Neck(outputs, hidden, outputs)


class Reference(nn.Module):
    """The reference's ``BYOL`` (stage 1) or ``ORL`` (stage 3): ``backbone`` and ``neck`` are the online net's own."""

    def __init__(self, architecture="resnet18", hidden=16, outputs=8, heads=("head",)):
        super().__init__()
        self.online_net, self.target_net = (nn.Sequential(*self._nets(architecture, hidden, outputs)) for _ in "ab")
        self.backbone, self.neck = self.online_net[0], self.online_net[1]
        for head in heads:
            self.add_module(head, Head(outputs, hidden))

    @staticmethod
    def _nets(architecture, hidden, outputs):
        backbone = getattr(torchvision.models, architecture)()
        features = backbone.fc.in_features
        del backbone.fc
        return backbone, Neck(features, hidden, outputs)


def scrambled(module, seed=0):
    """Give every tensor of a module a value of its own, in place; variances and gains stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(77)
            elif name.endswith("running_var") or tensor.ndim == 1:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
            else:
                tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=generator))
    return module.eval()


def mmcv_checkpoint(module):
    """Return what mmcv's runner saves: beside the weights a ``meta`` and the optimiser's state."""
    optimiser = torch.optim.SGD(module.parameters(), lr=0.4, momentum=0.9)
    meta = {"mmcv_version": "1.0.3", "time": "Mon Jan  4 10:00:00 2021", "epoch": 800, "iter": 185600}
    return {"meta": meta, "state_dict": module.state_dict(), "optimizer": optimiser.state_dict()}
