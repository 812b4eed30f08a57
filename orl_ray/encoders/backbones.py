"""The backbones by name, with a global pool, and their seeded initialisation (specification 1.1).

The state dict of a ResNet has torchvision's keys without ``fc``, so that published weights load as they are.
"""

from collections.abc import Callable
from typing import cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orl_ray import draws
from orl_ray.encoders.backbone import Backbone
from orl_ray.encoders.vision_transformer import VisionTransformer


class ResNet(Backbone):
    """A ResNet without its classifier.

    Args:
        network: a torchvision ResNet; its children but the pool and ``fc`` are taken over.
        features: width of the pooled vector.
    """

    stride = 32
    first_centre = 0.0  # of the receptive field, which padding moves

    def __init__(self, network: nn.Module, features: int) -> None:
        super().__init__()
        self.features = features
        for name, child in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps, as :meth:`Backbone.maps`: a 32nd of the image's sides, rounded up."""
        maps = images
        for child in self.children():  # torchvision registers them in the order in which it calls them
            maps = child(maps)
        return maps


def _resnet(build: Callable[..., nn.Module], features: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):  # torchvision draws its own initial weights; those draws must not leak
        return ResNet(build(weights=None), features)


_ARCHITECTURES: dict[str, Callable[[], Backbone]] = {
    "resnet18": lambda: _resnet(torchvision.models.resnet18, 512),
    "resnet50": lambda: _resnet(torchvision.models.resnet50, 2048),
    "vit_small": lambda: VisionTransformer(width=384, heads=6),
    "vit_base": lambda: VisionTransformer(width=768, heads=12),
}


def build_backbone(name: str) -> Backbone:
    """Build a backbone with unspecified weights: initialise or load it before use.

    Args:
        name: ``resnet18``, ``resnet50``, ``vit_small`` or ``vit_base``.

    Returns:
        The backbone, on the CPU, in training mode.

    Raises:
        ValueError: the name is not known.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"unknown backbone {name!r}; choose one of {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[name]()


def initialise(module: nn.Module, seed: int, *names: str | int) -> None:
    """Set every weight of a module from a seed, in place.

    Kaiming-normal fan-in for ReLU, batch norm to 1 and 0, biases to 0: the published initialisation, in which the
    last batch norm of a residual block is not zeroed. A vision transformer draws its own. The same arguments give the
    same weights on every machine with the same torch, and the global generators are left alone.

    Args:
        module: a vision transformer, or any stack of convolutions, linear layers and batch norms.
        seed: the run's seed.
        names: what is initialised, for example ``("object_level", "predictor", "intra")``.
    """
    generator = torch.Generator().manual_seed(draws.stream(seed, *names, "weights"))
    if isinstance(module, VisionTransformer):
        module.draw_weights(generator)
        return
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(child.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, _BatchNorm):
            cast("nn.BatchNorm2d", child).reset_parameters()
