"""Stage 2 of ORL in the scheme of the published reference, frozen: what discovery is measured against.

Jiahao000/ORL @ 2ad64f7, in our own words after reading ``tools/coco_knn_image_retrieval.ipynb``,
``datasets/correspondence.py`` and ``models/correspondence.py``:

- Images are embedded once for a bank, and each is read and embedded *again* as a query; the k + 1 most similar ones are
  taken, and the first of them is dropped as "self".
- RoI pairs are found one query image at a time. Proposals of the query and of each of its k neighbours are filtered
  *again*, in Python; each image is decoded; its RoIs are cropped, resized and embedded, all in one batch. So a RoI is
  embedded once for its own image and once for every image that it is a neighbour of: about k + 1 times.
- The similarity matrix of the query's RoIs and one neighbour's gives max(1, int(0.1 B)) pairs, B RoIs of the query.

The encoder, its weights and the sizes of crops are arguments: both sides have the same. Arithmetic is float32 on the
CPU. What only the reference's hardware has is left out, to its favour where it matters: loader processes and a JSON of
all proposals in the memory of each (50 GB for COCO).

Nothing here is used by the application. It changes only if it turns out that the reference does something else.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Boxes = list[tuple[int, int, int, int]]
# Maps (n, 3, H, W) normalised float32 to (n, D) float32.
Network = Callable[[Tensor], Tensor]

MIN_SIZE, MAX_ASPECT, MAX_IOU, TOP_ROIS = 96, 3.0, 0.5, 100
NEIGHBORS, PAIR_RATIO = 10, 0.1
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_QUERY_BATCH = 512


class Scene(NamedTuple):
    """An image and its unfiltered proposals.

    Attributes:
        path: the image file.
        proposals: xywh, in file order; at least one.
    """

    path: Path
    proposals: Boxes


class Sizes(NamedTuple):
    """Pixels of what is embedded: shorter side of an image, its centre crop, side of a RoI."""

    resize: int = 256
    crop: int = 224
    roi: int = 224


class RoiVectors(Protocol):
    """Embeds the RoIs of one image."""

    def __call__(self, place: int, boxes: Boxes) -> Tensor:
        """Return (B, D) unit float32 vectors of the boxes of the image at ``place``."""


def embed_images(scenes: Sequence[Scene], network: Network, sizes: Sizes) -> Tensor:
    """Embed whole images, 512 a batch.

    Args:
        scenes: n images.
        network: backbone and projector.
        sizes: of the resized image and its centre crop.

    Returns:
        (n, D) float32, unit vectors.
    """
    chunks = []
    for start in range(0, len(scenes), _QUERY_BATCH):
        batch = [_whole(scene.path, sizes) for scene in scenes[start : start + _QUERY_BATCH]]
        chunks.append(_embed(torch.stack(batch), network))
    return torch.cat(chunks)


def nearest_images(queries: Tensor, bank: Tensor, k: int = NEIGHBORS) -> list[list[int]]:
    """Take the k + 1 most similar images, and drop the first as "self": by rank, whatever it is.

    Args:
        queries: (q, D) unit vectors.
        bank: (n, D) unit vectors, n > k.
        k: neighbours.

    Returns:
        For each query, positions in the bank by falling similarity.
    """
    found: list[list[int]] = (queries @ bank.T).topk(k + 1, dim=1).indices[:, 1:].tolist()
    return found


def box_filter(proposals: Boxes) -> Boxes:
    """Keep large proposals of moderate aspect that overlap little with those kept before; at most 100.

    Args:
        proposals: xywh, at least one.

    Returns:
        The RoIs; the first proposal where none passes.
    """
    kept: Boxes = []
    for box in proposals:
        width, height = box[2], box[3]
        if width < MIN_SIZE or height < MIN_SIZE or max(width / height, height / width) > MAX_ASPECT:
            continue
        if all(_iou(box, other) <= MAX_IOU for other in kept):
            kept.append(box)
    return (kept or proposals[:1])[:TOP_ROIS]


def roi_vectors(scenes: Sequence[Scene], network: Network, sizes: Sizes) -> RoiVectors:
    """Return the way in which the reference embeds RoIs: decode, crop, resize, one batch an image.

    Args:
        scenes: all images.
        network: the backbone.
        sizes: of a RoI.
    """

    def embed(place: int, boxes: Boxes) -> Tensor:
        image = Image.open(scenes[place].path).convert("RGB")
        crops = [image.crop((x, y, x + width, y + height)) for x, y, width, height in boxes]
        side = (sizes.roi, sizes.roi)
        return _embed(torch.stack([_tensor(crop.resize(side, Image.Resampling.BILINEAR)) for crop in crops]), network)

    return embed


class Match(NamedTuple):
    """Pairs of RoIs between a query image and one neighbour.

    Attributes:
        query: position of the query image.
        neighbor: position of the neighbour.
        pairs: (box of the query, box of the neighbour), xywh, by falling similarity.
    """

    query: int
    neighbor: int
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]


def match_image(
    scenes: Sequence[Scene], query: int, neighbors: Sequence[int], embed: RoiVectors, ratio: float = PAIR_RATIO
) -> tuple[list[Match], int]:
    """Match the RoIs of one query image with those of each neighbour.

    Args:
        scenes: all images.
        query: position of the query image.
        neighbors: positions of its neighbours.
        embed: embeds the RoIs of an image.
        ratio: pairs a neighbour, as a share of the query's RoIs.

    Returns:
        The pairs, neighbour by neighbour, and how many RoIs were embedded for them.
    """
    own = box_filter(scenes[query].proposals)
    vectors, forwards = embed(query, own), len(own)
    matches = []
    for neighbor in neighbors:
        boxes = box_filter(scenes[neighbor].proposals)
        similarities = (vectors @ embed(neighbor, boxes).T).flatten()
        count = min(max(1, int(ratio * len(own))), len(similarities))
        best = similarities.topk(count).indices.tolist()
        pairs = [(own[position // len(boxes)], boxes[position % len(boxes)]) for position in best]
        matches.append(Match(query, neighbor, pairs))
        forwards += len(boxes)
    return matches, forwards


def _whole(path: Path, sizes: Sizes) -> Tensor:
    image = Image.open(path).convert("RGB")
    width, height = image.size
    if width <= height:
        resized = (sizes.resize, int(sizes.resize * height / width))
    else:
        resized = (int(sizes.resize * width / height), sizes.resize)
    image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - sizes.crop) / 2), round((resized[1] - sizes.crop) / 2)
    return _tensor(image.crop((left, top, left + sizes.crop, top + sizes.crop)))


def _tensor(image: Image.Image) -> Tensor:
    pixels: NDArray[np.uint8] = np.array(image)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std


def _embed(images: Tensor, network: Network) -> Tensor:
    with torch.no_grad():
        return torch.nn.functional.normalize(network(images), dim=1)


def _iou(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)
