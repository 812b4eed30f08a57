"""Weights into a backbone, strictly: a key that is missing or left over is an error, never a warning."""

from collections.abc import Mapping

from torch import Tensor

from orl_ray.encoders.backbones import Backbone

_CLASSIFIER = "fc."


def load_backbone(backbone: Backbone, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Load weights into a backbone, in place.

    Args:
        backbone: receives the weights.
        state: tensors by name, with torchvision's ResNet keys. A torchvision classifier (``fc.*``) is left out.
        prefix: take only the keys with this prefix and strip it: ``online.backbone.`` for a training checkpoint.

    Raises:
        ValueError: keys are missing or unexpected, or a shape differs; the text lists them.
    """
    taken = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    taken = {name: tensor for name, tensor in taken.items() if not name.startswith(_CLASSIFIER)}
    wanted = backbone.state_dict()
    problems = [
        *(f"missing {name}" for name in wanted if name not in taken),
        *(f"unexpected {name}" for name in taken if name not in wanted),
        *(
            f"{name} has shape {tuple(taken[name].shape)} where {tuple(tensor.shape)} is wanted"
            for name, tensor in wanted.items()
            if name in taken and taken[name].shape != tensor.shape
        ),
    ]
    if problems:
        raise ValueError(f"the weights do not fit the backbone (prefix {prefix!r}): {'; '.join(problems)}")
    backbone.load_state_dict(taken)
