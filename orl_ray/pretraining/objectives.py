"""The BYOL losses over whole images, regions and region pairs, and the networks behind them (specification 1, 3.4)."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from orl_ray import config
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.heads import mlp_head
from orl_ray.encoders.weights import load_backbone
from orl_ray.pretraining.ema import update_target

GLOBAL, INTRA, INTER = "global", "intra", "inter"
Views = Mapping[str, tuple[Tensor, Tensor]]
"""Two views a loss term, by the term's name."""


def forward_views(network: Callable[[Tensor], Tensor], views: Sequence[Tensor], *, together: bool) -> list[Tensor]:
    """Forward several views through one network.

    Args:
        network: maps (n, ...) to (n, ...).
        views: a batch each.
        together: whether views of one shape are one batch for batch norm; else each view is its own, as published.

    Returns:
        The results, in the order of the views.
    """
    if not together:
        return [network(view) for view in views]
    results: dict[int, Tensor] = {}
    for shape in dict.fromkeys(view.shape[1:] for view in views):
        places = [place for place, view in enumerate(views) if view.shape[1:] == shape]
        joined = network(torch.cat([views[place] for place in places]))
        results.update(zip(places, torch.split(joined, [len(views[place]) for place in places]), strict=True))
    return [results[place] for place in range(len(views))]


class Online(nn.Module):
    """The trained network: one backbone, one projector, and a predictor a loss term.

    Args:
        encoder: architecture and widths.
        terms: the loss terms in use.
        merge_views: whether views of one size are forwarded together, with joint batch statistics.
    """

    def __init__(self, encoder: config.Encoder, terms: tuple[str, ...], *, merge_views: bool = False) -> None:
        super().__init__()
        self.merge_views = merge_views
        self.backbone = build_backbone(encoder.backbone)
        self.projector = mlp_head(self.backbone.features, encoder.hidden, encoder.output)
        self.predictors = nn.ModuleDict(
            {term: mlp_head(encoder.output, encoder.hidden, encoder.output) for term in terms}
        )

    def forward(self, views: Views) -> dict[str, tuple[Tensor, Tensor]]:
        """Predict the target's projection of each view's partner.

        Args:
            views: (n, 3, side, side) float each.

        Returns:
            (n, output) float each.
        """
        projections = _project(self.backbone, self.projector, views, together=self.merge_views)
        predictions = {}
        for term, pair in projections.items():
            first, second = forward_views(self.predictors[term], pair, together=self.merge_views)
            predictions[term] = (first, second)
        return predictions


class Target(nn.Module):
    """The averaged network: a copy of the online backbone and projector that gradients never reach.

    It stays in training mode, with batch statistics and running statistics of its own.
    """

    def __init__(self, online: Online) -> None:
        super().__init__()
        self.merge_views = online.merge_views
        self.backbone = copy.deepcopy(online.backbone)
        self.projector = copy.deepcopy(online.projector)
        self.requires_grad_(requires_grad=False)

    @torch.no_grad()
    def forward(self, views: Views) -> dict[str, tuple[Tensor, Tensor]]:
        """Project each view, from (n, 3, side, side) to (n, output)."""
        return _project(self.backbone, self.projector, views, together=self.merge_views)


def _project(
    backbone: nn.Module, projector: nn.Module, views: Views, *, together: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    flat = [view for pair in views.values() for view in pair]
    projections = forward_views(lambda view: projector(backbone(view)), flat, together=together)
    return dict(zip(views, zip(projections[::2], projections[1::2], strict=True), strict=True))


class OnlineTarget(nn.Module):
    """BYOL's online network and its target, initialised from a seed.

    Args:
        encoder: architecture and widths.
        terms: the loss terms in use, each with a predictor of its own.
        seed: the run's seed.
        stage: name of the stage, which keys the initial weights.
        backbone: weights that the backbone starts from, by torchvision's names; None draws them.
        merge_views: whether views of one size are forwarded together, with joint batch statistics.
    """

    def __init__(
        self,
        encoder: config.Encoder,
        terms: tuple[str, ...],
        seed: int,
        stage: str,
        backbone: Mapping[str, Tensor] | None = None,
        *,
        merge_views: bool = False,
    ) -> None:
        super().__init__()
        self.online = Online(encoder, terms, merge_views=merge_views)
        initialise(self.online.backbone, seed, stage, "backbone")
        initialise(self.online.projector, seed, stage, "projector")
        for term, predictor in self.online.predictors.items():
            initialise(predictor, seed, stage, "predictor", term)
        if backbone is not None:
            load_backbone(self.online.backbone, backbone)
        self.target = Target(self.online)

    def losses(
        self, online: nn.Module, views: Views, sample_weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Return the loss of each term, and features to watch for a collapse.

        Args:
            online: :attr:`online`, as it is or wrapped for several processes.
            views: (n, 3, side, side) float each, two a term.
            sample_weights: (n,) float factors on the samples of a term; terms that are not listed weigh all the same.

        Returns:
            A scalar a term, and the target's (n, output) projections of the first term's two views.
        """
        projections = self.target(views)
        predictions = online(views)
        first: tuple[Tensor, Tensor] = next(iter(projections.values()))
        return symmetrised_losses(predictions, projections, sample_weights), first

    def after_step(self, momentum: float) -> None:
        """Move the target towards the online network; call once an iteration, after the optimiser's step."""
        update_target(self.target.backbone, self.online.backbone, momentum)
        update_target(self.target.projector, self.online.projector, momentum)


def term_weights(settings: config.Pretraining) -> dict[str, float]:
    """Return the weight of each loss term in use; a term of weight zero is not there, and so costs nothing.

    Args:
        settings: of either stage.

    Returns:
        Positive weights by term, in a fixed order.

    Raises:
        ValueError: no term has a weight above zero.
    """
    weights = {GLOBAL: 1.0}
    if isinstance(settings, config.ObjectLevel):
        weights = {GLOBAL: settings.global_weight, INTRA: settings.intra_weight, INTER: settings.inter_weight}
    weights = {term: weight for term, weight in weights.items() if weight > 0}
    if not weights:
        raise ValueError(
            "all loss weights are zero: nothing to train; set one of global, intra and inter weight above zero"
        )
    return weights


def byol_loss(predictions: Tensor, targets: Tensor, sample_weights: Tensor | None = None) -> Tensor:
    """Return the mean of 2 - 2 cos(prediction, target), in [0, 4].

    Args:
        predictions: (n, d) float.
        targets: (n, d) float; no gradient flows into them.
        sample_weights: (n,) float, factors on the samples before the mean; None for ones.

    Returns:
        A scalar, at least float32; 0 for no samples.
    """
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    first, second = (
        functional.normalize(predictions.to(dtype), dim=1),
        functional.normalize(targets.detach().to(dtype), dim=1),
    )
    losses = 2 - 2 * (first * second).sum(dim=1)
    return weighted_mean(losses, sample_weights)


def weighted_mean(losses: Tensor, sample_weights: Tensor | None) -> Tensor:
    """Return the mean of (n,) losses times (n,) factors, None for ones; 0 for n = 0, a share of a short batch."""
    if not len(losses):
        return losses.sum()
    return losses.mean() if sample_weights is None else (losses * sample_weights).mean()


def symmetrised_losses(
    predictions: Views, projections: Views, sample_weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return each term's BYOL loss in both directions, each in [0, 8].

    Args:
        predictions: of the online network.
        projections: of the target network, for the same views.
        sample_weights: factors on the samples of a term, (n,) each; terms that are not listed weigh all the same.
    """
    losses = {}
    for term, (first, second) in predictions.items():
        weights = sample_weights.get(term)
        forward = byol_loss(first, projections[term][1], weights)
        losses[term] = forward + byol_loss(second, projections[term][0], weights)
    return losses
