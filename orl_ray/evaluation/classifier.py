"""Linear classifiers on a backbone: one on its pooled vector, or one on each of five layers (specification 5.2)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from orl_ray import draws
from orl_ray.encoders.backbones import Backbone
from orl_ray.evaluation.layers import LAYERS, POOLS, channels, layer_maps, pooled
from orl_ray.evaluation.recipes import HEAD_STD, NORM_EPS, NORM_MOMENTUM, Recipe

LAST = "last"


class LayerClassifier(nn.Module):
    """One layer's classifier: average pool, batch norm without weights, linear layer.

    Args:
        layer: the layer's name.
        width: its channels.
        classes: number of classes.
    """

    def __init__(self, layer: str, width: int, classes: int) -> None:
        super().__init__()
        self._layer = layer
        self.norm = nn.BatchNorm2d(width, NORM_EPS, NORM_MOMENTUM, affine=False)
        self.linear = nn.Linear(width * POOLS[layer].side ** 2, classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, classes) logits."""
        logits: Tensor = self.linear(self.norm(pooled(self._layer, maps)).flatten(1))
        return logits


class Classifier(nn.Module):
    """A backbone with its classifiers.

    Args:
        backbone: with the weights that are to be judged.
        recipe: says which classifiers, and whether the backbone is trained.
        classes: number of classes.
        seed: draws the classifiers' initial weights.

    Attributes:
        backbone: the backbone.
        heads: the classifiers by name: ``conv1`` to ``res5``, or ``last``.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe, classes: int, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        self._frozen = not recipe.trains_backbone
        backbone.requires_grad_(recipe.trains_backbone)
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights of its own; those draws must not leak
            if recipe.head == LAST:
                self.heads = nn.ModuleDict({LAST: nn.Linear(backbone.features, classes)})
            else:
                widths = channels(backbone)
                self.heads = nn.ModuleDict({name: LayerClassifier(name, widths[name], classes) for name in LAYERS})
        for name, head in self.heads.items():
            generator = torch.Generator().manual_seed(draws.stream(seed, "evaluation", "classifier", name))
            for child in head.modules():
                if isinstance(child, nn.Linear):
                    nn.init.normal_(child.weight, std=HEAD_STD, generator=generator)
                    nn.init.zeros_(child.bias)

    def train(self, mode: bool = True) -> "Classifier":
        """Switch to training or scoring; a frozen backbone keeps its own statistics in either."""
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify images.

        Args:
            images: (n, 3, side, side) float, normalised.

        Returns:
            Name of the classifier -> (n, classes) logits.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            seen = {LAST: self.backbone(images)} if LAST in self.heads else layer_maps(self.backbone, images, LAYERS)
        return {name: self.heads[name](values) for name, values in seen.items()}

    def trained_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that a training changes, by name, sharing memory."""
        for name, tensor in self.state_dict().items():
            if not (self._frozen and name.startswith("backbone.")):
                yield name, tensor
