"""The main job with fakes for what is slow an image: the search for proposals, and the encoder's forward pass.

Everything else is the real thing: source, packs, decoding (of small pictures), crops, Ray Data, shard actors, searches,
pairing, trainings, keys, manifests. So a collection of a hundred thousand images goes through all stages in minutes.

The fakes are put in where a stage's workers start, by the stages' own ``prepare``. Their outputs are a function of the
pixels, as the real ones' are.
"""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from orl_ray import draws
from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.embeddings.stages import embed_images, embed_rois
from orl_ray.encoders.backbones import Backbone
from orl_ray.execution import StageRun
from orl_ray.part_runner import WorkerContext, run_parts
from orl_ray.pipeline import Stage
from orl_ray.proposals import stages as proposal_stages
from orl_ray.proposals.selective_search import Regions
from orl_ray.storage import digest

REGIONS = 300
_GRID = 4


def scattered_regions(image: NDArray[np.uint8], mode: str, max_side: int = 0) -> Regions:
    """Scatter boxes over an image, in place of selective search.

    Args:
        image: (H, W, 3) uint8, at least 2 pixels a side.
        mode: as the search takes it; changes nothing.
        max_side: as the search takes it; changes nothing.

    Returns:
        ``REGIONS`` regions of all sizes inside the image, drawn by its pixels.
    """
    del mode, max_side
    key = draws.stream(0, "benchmark", "regions", digest(np.ascontiguousarray(image).data))
    shares = draws.uniform(key, np.arange(REGIONS, dtype=np.int64), 4)
    size = np.array([image.shape[1], image.shape[0]])
    sides = 1 + np.floor(shares[:, 2:] * size).astype(np.int64)
    corners = np.floor(shares[:, :2] * (size - sides + 1)).astype(np.int64)
    levels = 1 + np.arange(REGIONS) % 20
    places = 1 + np.arange(REGIONS)
    return Regions(np.hstack([corners, sides]).astype(np.int32), levels.astype(np.int16), places.astype(np.int32))


class PooledColours(Backbone):
    """A backbone that only averages colours over a coarse grid: 48 numbers an image."""

    def __init__(self) -> None:
        super().__init__(nn.Module(), 3 * _GRID**2)

    def forward(self, images: Tensor) -> Tensor:
        """Average (n, 3, H, W) images to (n, 48)."""
        return adaptive_avg_pool2d(images, _GRID).flatten(1)


def prepare_search(_context: WorkerContext) -> None:
    """Put scattered boxes in the search's place, in this worker."""
    patch.object(proposal_stages, "propose", scattered_regions).start()


def prepare_encoder(_context: WorkerContext) -> FrozenEncoder:
    """Make an encoder whose forward pass costs next to nothing."""
    return FrozenEncoder(PooledColours(), None, torch.device("cpu"))


def run_proposals(run: StageRun) -> None:
    """Make the missing parts of the proposals, without a search."""
    run_parts(run, proposal_stages.propose_part, prepare=prepare_search)


def run_image_embeddings(run: StageRun) -> None:
    """Embed the images of the missing parts by their colours."""
    run_parts(run, embed_images, prepare=prepare_encoder, on_device=True)


def run_roi_embeddings(run: StageRun) -> None:
    """Embed the RoIs of the missing parts by their colours."""
    run_parts(run, embed_rois, prepare=prepare_encoder, on_device=True)


FAKED = {
    "proposals": run_proposals,
    "image_embeddings": run_image_embeddings,
    "roi_embeddings": run_roi_embeddings,
}


def with_fakes(stages: list[Stage]) -> list[Stage]:
    """Return the same graph, in which the slow kernels are fakes."""
    return [replace(stage, work=FAKED.get(stage.name, stage.work)) for stage in stages]
