"""The networks of a training: which method's they are, and where they start from."""

from collections.abc import Mapping

from torch import Tensor

from orl_ray import config
from orl_ray.pretraining.contrast import MomentumContrast, SimCLR
from orl_ray.pretraining.objectives import OnlineTarget

Network = OnlineTarget | MomentumContrast | SimCLR
"""What a method trains: its trained part is ``online``; ``losses`` and ``after_step`` make up a step."""


def build_network(
    settings: config.Pretraining,
    encoder: config.Encoder,
    terms: tuple[str, ...],
    seed: int,
    stage: str,
    images: int,
    backbone: Mapping[str, Tensor] | None = None,
) -> Network:
    """Build the networks of a training, initialised, on the CPU.

    Args:
        settings: of the stage.
        encoder: architecture and widths.
        terms: the loss terms in use.
        seed: the run's seed.
        stage: name of the stage.
        images: number of images that are trained on.
        backbone: weights that the backbone starts from, by torchvision's names; None draws them.

    Raises:
        ValueError: those weights do not fit the backbone.
    """
    if isinstance(settings, config.ImageLevel):
        if settings.method == "moco":
            return MomentumContrast(encoder, settings, images, seed, stage, backbone)
        if settings.method == "simclr":
            return SimCLR(encoder, settings, seed, stage, backbone)
    return OnlineTarget(encoder, terms, seed, stage, backbone, merge_views=settings.merge_views)
