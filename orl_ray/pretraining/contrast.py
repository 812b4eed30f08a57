"""MoCo v2 and SimCLR on whole images: the baselines beside BYOL (specification 1.6).

Both tell a view's partner from other images by a softmax over cosines (van den Oord, Li & Vinyals, "Representation
learning with contrastive predictive coding", 2018). MoCo takes the others from a queue of past batches' keys (He et
al., 2020; Chen et al., 2020), SimCLR from the global batch (Chen et al., 2020).
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from orl_ray import config, draws
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.heads import PROJECTORS
from orl_ray.encoders.weights import load_backbone
from orl_ray.pretraining.ema import update_target
from orl_ray.pretraining.gather import gather_rows
from orl_ray.pretraining.objectives import GLOBAL, Views, forward_views, weighted_mean


class Encoder(nn.Module):
    """A backbone and a method's projector.

    Args:
        encoder: architecture and widths.
        method: ``moco`` or ``simclr``.
        merge_views: whether several views are forwarded together, with joint batch statistics.
    """

    def __init__(self, encoder: config.Encoder, method: str, *, merge_views: bool = False) -> None:
        super().__init__()
        self.merge_views = merge_views
        self.backbone = build_backbone(encoder.backbone)
        self.projector = PROJECTORS[method](self.backbone.features, encoder.hidden, encoder.output)

    def forward(self, *views: Tensor) -> list[Tensor]:
        """Map each (n, 3, side, side) view to (n, output) projections."""
        return forward_views(lambda view: self.projector(self.backbone(view)), views, together=self.merge_views)

    def initialise(self, seed: int, stage: str, backbone: Mapping[str, Tensor] | None) -> None:
        """Set all weights from a seed, the backbone's from those given."""
        initialise(self.backbone, seed, stage, "backbone")
        initialise(self.projector, seed, stage, "projector")
        if backbone is not None:
            load_backbone(self.backbone, backbone)


class MomentumContrast(nn.Module):
    """MoCo v2: a query network, its moving average that makes keys, and a queue of keys.

    Batch norm is synchronised over all processes instead of the published shuffling: with either, a query cannot tell
    its key by the statistics of a small batch that they share.

    Args:
        encoder: architecture and widths.
        settings: the temperature, and the length of the queue.
        images: number of images; the queue is never longer.
        seed: the run's seed.
        stage: name of the stage, which keys the initial weights and queue.
        backbone: weights that the backbone starts from, by torchvision's names; None draws them.

    Attributes:
        queue: (length, output) unit keys, the same in all processes, in the order of their batches' samples. It is part
            of the state dict, and so of checkpoints, as is ``queue_start``, where the next key goes.
    """

    queue: Tensor
    queue_start: Tensor

    def __init__(
        self,
        encoder: config.Encoder,
        settings: config.ImageLevel,
        images: int,
        seed: int,
        stage: str,
        backbone: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.online = Encoder(encoder, "moco")
        self.online.initialise(seed, stage, backbone)
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)
        generator = torch.Generator().manual_seed(draws.stream(seed, stage, "queue"))
        length = min(settings.queue, images)
        self.register_buffer("queue", unit(torch.randn(length, encoder.output, generator=generator)))
        self.register_buffer("queue_start", torch.tensor(0))
        self._keys: list[Tensor] = []

    def losses(
        self, online: nn.Module, views: Views, sample_weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Return the loss of the first views as queries for the second ones' keys, and both.

        Args:
            online: :attr:`online`, as it is or wrapped for several processes.
            views: (n, 3, side, side) float each, two of whole images.
            sample_weights: (n,) float factors on the samples' losses, by term; none that are not listed.
        """
        query_view, key_view = views[GLOBAL]
        with torch.no_grad():
            keys = unit(self.target(key_view)[0])
        self._keys.append(gather_rows(keys)[0])
        queries = unit(online(query_view)[0])
        losses = queue_losses(queries, keys, self.queue, self.temperature)
        return {GLOBAL: weighted_mean(losses, sample_weights.get(GLOBAL))}, (queries.detach(), keys)

    @torch.no_grad()
    def after_step(self, momentum: float) -> None:
        """Move the key network towards the query network, and put the step's keys into the queue.

        All processes' keys go in, in the order of the batch; those of several forwards, too, where a step has several.
        """
        update_target(self.target, self.online, momentum)
        keys = torch.cat(self._keys)
        self._keys.clear()
        kept = keys[-len(self.queue) :]
        places = (self.queue_start + torch.arange(len(kept), device=kept.device)) % len(self.queue)
        self.queue[places] = kept.to(self.queue.dtype)
        self.queue_start.copy_((self.queue_start + len(kept)) % len(self.queue))


class SimCLR(nn.Module):
    """SimCLR: one network, and every other image of the global batch to contrast with.

    Args:
        encoder: architecture and widths.
        settings: the temperature, and whether views are forwarded together, as published for SimCLR.
        seed: the run's seed.
        stage: name of the stage, which keys the initial weights.
        backbone: weights that the backbone starts from, by torchvision's names; None draws them.
    """

    def __init__(
        self,
        encoder: config.Encoder,
        settings: config.ImageLevel,
        seed: int,
        stage: str,
        backbone: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.online = Encoder(encoder, "simclr", merge_views=settings.merge_views)
        self.online.initialise(seed, stage, backbone)

    def losses(
        self, online: nn.Module, views: Views, sample_weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Return the loss over the global batch, and the projections of both views.

        Args:
            online: :attr:`online`, as it is or wrapped for several processes.
            views: (n, 3, side, side) float each, two of whole images.
            sample_weights: (n,) float factors on the samples' losses, by term; none that are not listed.
        """
        first, second = (unit(projections) for projections in online(*views[GLOBAL]))
        losses = batch_losses(first, second, self.temperature)
        return {GLOBAL: weighted_mean(losses, sample_weights.get(GLOBAL))}, (first.detach(), second.detach())

    def after_step(self, momentum: float) -> None:
        """Do nothing: no network follows the trained one."""


def queue_losses(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of telling each query's key from the queue.

    Args:
        queries: (n, d) unit vectors.
        keys: (n, d) unit vectors; row i is query i's. No gradient flows into them.
        queue: (m, d) unit vectors of other images.
        temperature: divides the cosines.

    Returns:
        (n,) float.
    """
    with torch.autocast(queries.device.type, enabled=False):
        positives = (queries * keys.detach()).sum(dim=1, keepdim=True)
        logits = torch.cat([positives, queries @ queue.T], dim=1) / temperature
        first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        return functional.cross_entropy(logits, first, reduction="none")


def batch_losses(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return SimCLR's NT-Xent: the cross entropy of telling a view's partner from all other views of the batch.

    Args:
        first: (n, d) unit vectors, this process' share of the batch.
        second: (n, d) unit vectors; row i is the other view of the same sample.
        temperature: divides the cosines.

    Returns:
        (n,) float, the mean of each sample's two views.
    """
    with torch.autocast(first.device.type, enabled=False):
        (firsts, start), (seconds, _) = gather_rows(first), gather_rows(second)
        own = torch.arange(start, start + len(first), device=first.device)
        logits = torch.cat([first, second]) @ torch.cat([firsts, seconds]).T / temperature
        selves = torch.cat([own, own + len(firsts)])
        logits = logits.scatter(1, selves[:, None], -torch.inf)
        partners = torch.cat([own + len(firsts), own])
        return functional.cross_entropy(logits, partners, reduction="none").view(2, -1).mean(dim=0)


def unit(projections: Tensor) -> Tensor:
    """Scale rows to length 1, in float32 at least."""
    dtype = torch.promote_types(projections.dtype, torch.float32)
    return functional.normalize(projections.to(dtype), dim=1)
