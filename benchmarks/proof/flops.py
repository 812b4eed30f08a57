"""Floating-point operations of training and embedding, counted by torch in the networks' own passes.

Counted: convolutions and matrix products, two operations a multiply-add, forward and backward, online and target
network, projector and predictors. Not counted: element-wise operations, batch norm, the optimiser, selective search,
and the search of neighbours and pairs, whose products are some hundred thousandths of the embedding's at these sizes.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from orl_ray import config
from orl_ray.encoders.backbones import build_backbone
from orl_ray.encoders.heads import mlp_head
from orl_ray.pretraining.objectives import GLOBAL, OnlineTarget, term_weights

_SAMPLES = 2  # batch norm needs two


def byol_flops(encoder: config.Encoder, settings: config.Pretraining) -> float:
    """Return the FLOPs of one sample's step, of BYOL or ORL, by the settings' type and loss weights."""
    weights = term_weights(settings)
    network = OnlineTarget(encoder, tuple(weights), 0, "flops")
    sides = {term: _side(settings, term) for term in weights}
    views = {term: (_images(side), _images(side)) for term, side in sides.items()}

    def step() -> None:
        losses, _ = network.losses(network.online, views, {})
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    return _counted(step)


def supervised_flops(encoder: config.Encoder, settings: config.Pretraining, classes: int) -> float:
    """Return the FLOPs of one sample's step, two views, of a backbone with a linear classifier."""
    backbone = build_backbone(encoder.backbone)
    network = nn.Sequential(backbone, nn.Linear(backbone.features, classes))
    views = _images(settings.view_size), _images(settings.view_size)
    return _counted(lambda: sum(network(view).sum() for view in views).backward())


def embedding_flops(settings: config.Config, images: int, rois: int) -> float:
    """Return the FLOPs of embedding images by backbone and projector, and RoIs by the backbone."""
    backbone = build_backbone(settings.encoder.backbone)
    projector = mlp_head(backbone.features, settings.encoder.hidden, settings.encoder.output)
    whole, regions = _images(settings.embeddings.image_crop), _images(settings.embeddings.roi_size)
    with torch.no_grad():
        an_image = _counted(lambda: projector(backbone(whole)))
        a_roi = _counted(lambda: backbone(regions))
    return images * an_image + rois * a_roi


def orl_flops(settings: config.Config, images: int, rois: int) -> Mapping[str, float]:
    """Return what ORL costs: ``stage_1``, ``embedding`` and ``stage_3``, in FLOPs."""
    stage_1 = byol_flops(settings.encoder, settings.image_level) * settings.image_level.epochs * images
    stage_3 = byol_flops(settings.encoder, settings.object_level) * settings.object_level.epochs * images
    return {"stage_1": stage_1, "embedding": embedding_flops(settings, images, rois), "stage_3": stage_3}


def _side(settings: config.Pretraining, term: str) -> int:
    return settings.patch_size if term != GLOBAL and isinstance(settings, config.ObjectLevel) else settings.view_size


def _images(side: int) -> torch.Tensor:
    return torch.zeros(_SAMPLES, 3, side, side)


def _counted(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / _SAMPLES
