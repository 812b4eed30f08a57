"""Pairs of RoIs as mining found them, and pairs to compare them with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.pair_objects import Paired
from orl_ray import draws
from orl_ray.config import Config
from orl_ray.pipeline import State
from orl_ray.pretraining.export import objects_of, paired_images
from orl_ray.settings import build
from orl_ray.storage import PartRecord, Store


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a finished discovery found.

    Attributes:
        config: of the run that made it.
        sizes: image id -> (width, height), pixels.
        rois: image id -> (n, 4) int32 xywh, n >= 1.
        pairs: as training draws from them: the ``mining.k`` nearest images, ``mining.pair_ratio`` of the RoIs.
        scenes: parts of the scenes, to read photographs from.
    """

    config: Config
    sizes: dict[int, tuple[int, int]]
    rois: dict[int, NDArray[np.int32]]
    pairs: list[Paired]
    scenes: list[PartRecord]


def read_discovery(store: Store) -> Discovery:
    """Read what the newest run knows of that got as far as pairs. Writes nothing.

    Raises:
        ValueError: no run got there.
        StoreError: a part is not there, or changed since it was written.
    """
    for run in store.runs(None):
        if run["stages"].get("correspondences", {}).get("state") == State.DONE:
            break
    else:
        raise ValueError(f"{store.root}: no run has finished its correspondences yet")
    parts = {
        name: {record.index: record for record in store.collection(name, run["stages"][name]["key"])}
        for name in ("scenes", "rois", "correspondences")
    }
    config = build(run["config"])
    paired = paired_images(store, parts["correspondences"].values())
    found = Discovery(config, {}, {}, [], list(parts["scenes"].values()))
    for index, record in parts["scenes"].items():
        for row in store.read_table("scenes", record.key, columns=["image_id", "width", "height"]).to_pylist():
            found.sizes[row["image_id"]] = (row["width"], row["height"])
        of_part = objects_of(store, parts["rois"][index], parts["correspondences"][index], config.mining, paired)
        for image_id, (rois, neighbours) in of_part.items():
            found.rois[image_id] = rois
            found.pairs.extend(Paired(image_id, *neighbour) for neighbour in neighbours)
    return found


def largest_pairs(mined: Sequence[Paired], rois: Mapping[int, NDArray[np.int32]]) -> list[Paired]:
    """Pair the largest RoI of an image with the largest of its neighbour, the second with the second, and so on.

    Args:
        mined: the pairs whose images, neighbours and numbers are taken.
        rois: image id -> (n, 4) RoIs. Of equal areas the earlier RoI comes first.

    Returns:
        As many pairs, or as many as the image with fewer RoIs has.
    """
    by_area = {
        image_id: boxes[np.argsort(-boxes[:, 2].astype(np.int64) * boxes[:, 3], kind="stable")]
        for image_id, boxes in rois.items()
    }
    result = []
    for entry in mined:
        count = min(len(entry.query_boxes), len(by_area[entry.query]), len(by_area[entry.neighbor]))
        boxes = by_area[entry.query][:count], by_area[entry.neighbor][:count]
        result.append(Paired(entry.query, entry.neighbor, *boxes))
    return result


def matched_pairs(
    mined: Sequence[Paired],
    rois: Mapping[int, NDArray[np.int32]],
    sizes: Mapping[int, tuple[int, int]],
    seed: int,
) -> list[Paired]:
    """Keep each pair's RoI of the query image, and take the other from a random image, at the same place.

    So large, central boxes, which are often objects, stand against large, central boxes.

    Args:
        mined: the pairs.
        rois: image id -> (n, 4) RoIs, of at least two images.
        sizes: image id -> (width, height).
        seed: of the draws, which are keyed by the image, the neighbour and the number of the pair.

    Returns:
        One entry a pair. Its image is drawn from all but the query image; of its RoIs it is the one whose square root
        of area and centre, as shares of those of its image, are nearest to the mined one's (Euclidean; the first of
        equals).
    """
    ids = np.array(sorted(rois), np.int64)
    placed = {int(image_id): placement(rois[int(image_id)], sizes[int(image_id)]) for image_id in ids}
    result = []
    for entry in mined:
        key = draws.stream(seed, "benchmark", "matched", entry.query, entry.neighbor)
        numbers = draws.integers(key, np.arange(len(entry.query_boxes), dtype=np.int64), len(ids) - 1)
        own = int(np.searchsorted(ids, entry.query))
        wanted = placement(entry.neighbor_boxes, sizes[entry.neighbor])
        for number, place, query_box in zip(numbers.tolist(), wanted, entry.query_boxes, strict=True):
            other = int(ids[number + (number >= own)])
            nearest = int(np.square(placed[other] - place).sum(axis=1).argmin())
            result.append(Paired(entry.query, other, query_box[None], rois[other][nearest][None]))
    return result


def placement(boxes: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return (n, 3) float64: the square root of each box's share of the image's area, and its centre's position in it.

    Args:
        boxes: (n, 4) xywh.
        size: the image's width and height.
    """
    width, height = size
    area = np.sqrt(boxes[:, 2] / width * (boxes[:, 3] / height))
    across, down = (boxes[:, 0] + boxes[:, 2] / 2) / width, (boxes[:, 1] + boxes[:, 3] / 2) / height
    return np.stack([area, across, down], axis=1)
