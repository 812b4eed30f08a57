"""Regions, neighbours and pairs of the training scenes, by the plain functions behind the main job's stages.

One process, no Ray and no store: what the stages ``proposals`` to ``correspondences`` would find, pair by pair (a test
compares them), as an exported training set. Near-duplicates are not looked for: generated scenes have none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.pair_objects import Paired
from orl_ray.config import Config
from orl_ray.embeddings.encoder import frozen_backbone, frozen_image_encoder
from orl_ray.embeddings.on_their_way import to_device
from orl_ray.embeddings.roi_features import embed_crops
from orl_ray.embeddings.vectors import embed_blocks
from orl_ray.mining.exact_similarity import similarities, widen
from orl_ray.mining.matching import match, pair_count
from orl_ray.pretraining.training_set import META, TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.proposals.modes import Mode
from orl_ray.proposals.ranking import Order, rank
from orl_ray.proposals.roi_filter import filter_rois
from orl_ray.proposals.selective_search import propose
from orl_ray.scenes.decode import center_crop, decode, resize_shorter

_QUERIES = 512  # rows of the similarity matrix that are held at once


@dataclass(frozen=True, slots=True)
class Discovery:
    """What pairs are made of.

    Attributes:
        sizes: image id -> (width, height), pixels.
        rois: image id -> (n, 4) int32 xywh, n >= 1.
        pairs: the mined ones, one entry an (image, neighbour).
    """

    sizes: dict[int, tuple[int, int]]
    rois: dict[int, NDArray[np.int32]]
    pairs: list[Paired]


def write_regions(config: Config, scenes: Path, folder: Path) -> None:
    """Export scenes with their regions and without pairs, which is what stage 1 trains on, unless that is done.

    Args:
        config: the settings of proposals and RoIs, and the seed.
        scenes: folder of ``000000.jpg`` and so on; the number is the image's id.
        folder: where to export to.
    """
    if (folder / META).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TrainingSetWriter(folder, config.source.max_pixels) as writer:
        for path in sorted(scenes.iterdir()):
            data, image_id = path.read_bytes(), int(path.stem)
            image = decode(data, config.source.max_pixels)
            regions = propose(image, cast("Mode", config.proposals.mode), config.proposals.max_side)
            boxes = rank(regions, config.seed, image_id, cast("Order", config.proposals.order)).boxes
            kept = filter_rois(boxes, image.shape[1], image.shape[0], config.rois).boxes
            writer.add(image_id, data, kept)


def mine(config: Config, training_set: TrainingSet, weights: dict[str, Tensor]) -> Discovery:
    """Embed images and regions, and pair the regions of each image with those of its nearest images.

    Args:
        config: the settings of embeddings and mining; ``k`` neighbours and ``pair_ratio`` are what training draws from.
        training_set: images and regions.
        weights: of stage 1: backbone and projector.
    """
    settings = config.embeddings
    images, regions = frozen_image_encoder(config, weights), frozen_backbone(config, weights)
    order = np.argsort(training_set.image_ids, kind="stable").tolist()
    ids = training_set.image_ids[order]
    whole = (
        to_device(center_crop(resize_shorter(image, settings.image_resize), settings.image_crop)[None], images.device)
        for image in _decoded(training_set, order)
    )
    vectors = embed_blocks(images, whole, settings.batch_size).vectors
    rois = [np.asarray(training_set.rois(position)) for position in order]
    scenes = zip(_decoded(training_set, order), rois, strict=True)
    flat = embed_crops(regions, scenes, settings.roi_size, settings.batch_size).vectors
    of_image = np.split(flat, np.cumsum([len(boxes) for boxes in rois])[:-1])
    pairs = []
    for row, nearest in enumerate(_neighbours(vectors, config.mining.k)):
        count = pair_count(len(rois[row]), config.mining.pair_ratio)
        for other in nearest.tolist():
            found = match(of_image[row], of_image[other], count, config.mining.pairing)
            boxes = rois[row][found.query_index], rois[other][found.neighbor_index]
            pairs.append(Paired(int(ids[row]), int(ids[other]), *boxes))
    sizes = {
        int(image_id): (image.shape[1], image.shape[0])
        for image_id, image in zip(ids, _decoded(training_set, order), strict=True)
    }
    return Discovery(sizes, dict(zip(ids.tolist(), rois, strict=True)), pairs)


def _neighbours(vectors: NDArray[np.float16], k: int) -> Iterator[NDArray[np.int64]]:
    """Yield the k most similar other rows of each row, by falling similarity; of equals the earlier first."""
    wide = widen(vectors, "image vectors")
    for start in range(0, len(wide), _QUERIES):
        found = similarities(wide[start : start + _QUERIES], wide)
        found[np.arange(len(found)), start + np.arange(len(found))] = -np.inf
        yield from np.argsort(-found, axis=1, kind="stable")[:, :k]


def _decoded(training_set: TrainingSet, positions: list[int]) -> Iterator[NDArray[np.uint8]]:
    for position in positions:
        yield decode(training_set.image_bytes(position), training_set.max_pixels)
