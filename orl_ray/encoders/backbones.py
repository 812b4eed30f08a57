"""ResNet backbones with a global pool, and their seeded initialisation (specification 1.1).

The state dict has torchvision's ResNet keys without ``fc``, so that published torchvision weights load as they are.
"""

from collections.abc import Callable
from typing import cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orl_ray import draws

_ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "resnet18": (torchvision.models.resnet18, 512),
    "resnet50": (torchvision.models.resnet50, 2048),
}
_POOL = "avgpool"


class Backbone(nn.Module):
    """A ResNet without its classifier: images in, one pooled vector an image out.

    Args:
        network: a torchvision ResNet; its children but ``fc`` are taken over.
        features: width of the pooled vector.

    Attributes:
        features: width of the pooled vector.
    """

    def __init__(self, network: nn.Module, features: int) -> None:
        super().__init__()
        self.features = features
        for name, child in network.named_children():
            if name != "fc":
                self.add_module(name, child)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (n, 3, height, width) float, normalised.

        Returns:
            (n, features) float.
        """
        pooled: Tensor = self.get_submodule(_POOL)(self.maps(images))
        return pooled.flatten(1)

    def maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps, which :meth:`forward` pools.

        Args:
            images: (n, 3, height, width) float, normalised.

        Returns:
            (n, features, height / 32, width / 32) float, sides rounded up. Cell (i, j) has its receptive field centred
            on pixel (32 i, 32 j).
        """
        maps = images
        for name, child in self.named_children():  # torchvision registers them in the order in which it calls them
            if name != _POOL:
                maps = child(maps)
        return maps


def build_backbone(name: str) -> Backbone:
    """Build a backbone with unspecified weights: initialise or load it before use.

    Args:
        name: ``resnet18`` or ``resnet50``.

    Returns:
        The backbone, on the CPU, in training mode.

    Raises:
        ValueError: the name is not known.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"unknown backbone {name!r}; choose one of {', '.join(_ARCHITECTURES)}")
    build, features = _ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):  # torchvision draws its own initial weights; those draws must not leak
        return Backbone(build(weights=None), features)


def initialise(module: nn.Module, seed: int, *names: str | int) -> None:
    """Set every weight of a module from a seed, in place.

    Kaiming-normal fan-in for ReLU, batch norm to 1 and 0, biases to 0: the published initialisation, in which the
    last batch norm of a residual block is not zeroed. The same arguments give the same weights on every machine with
    the same torch, and the global generators are left alone.

    Args:
        module: any stack of convolutions, linear layers and batch norms.
        seed: the run's seed.
        names: what is initialised, for example ``("object_level", "predictor", "intra")``.
    """
    generator = torch.Generator().manual_seed(draws.stream(seed, *names, "weights"))
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(child.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, _BatchNorm):
            cast("nn.BatchNorm2d", child).reset_parameters()
