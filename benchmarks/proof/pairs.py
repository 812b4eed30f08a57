"""The pairs of regions of each arm: as mined, at random with equal areas, or of one class by the annotations.

The other arms' pairs take the place of the mined ones in a copy of the training set. All else in it stays.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.pair_controls import placement
from benchmarks.pair_objects import NO_OBJECT, Objects, Paired, classes_of
from orl_ray import draws
from orl_ray.pretraining.training_set import META, TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter

NEAREST = 32  # regions of other images among which a random partner is drawn
Boxes = NDArray[np.int32]
Region = tuple[int, int]
"""An image's id, and the number of a RoI in it."""


def random_pairs(
    mined: Sequence[Paired], rois: Mapping[int, Boxes], sizes: Mapping[int, tuple[int, int]], seed: int
) -> list[Paired]:
    """Keep each pair's region of the query image, and draw the other among regions of the mined one's area.

    Args:
        mined: the pairs.
        rois: image id -> (n, 4) int32 xywh.
        sizes: image id -> (width, height).
        seed: of the draws, which are keyed by the image, the neighbour and the number of the pair.

    Returns:
        One entry a pair. Its second region is drawn from the ``NEAREST`` regions of other images whose areas, as shares
        of their images', have square roots nearest to the mined one's; of equals, those of smaller ids come first.

    Raises:
        ValueError: there are fewer regions of other images.
    """
    regions = [(image, number) for image in sorted(rois) for number in range(len(rois[image]))]
    images = np.array([image for image, _ in regions])
    sides = np.concatenate([placement(rois[image], sizes[image])[:, 0] for image in sorted(rois)])
    result = []
    for entry in mined:
        wanted = placement(entry.neighbor_boxes, sizes[entry.neighbor])[:, 0]
        key = draws.stream(seed, "proof", "random_pairs", entry.query, entry.neighbor)
        chosen = draws.integers(key, np.arange(len(wanted), dtype=np.int64), NEAREST).tolist()
        others = np.flatnonzero(images != entry.query)
        if len(others) < NEAREST:
            raise ValueError(f"image {entry.query}: only {len(others)} regions of other images to draw {NEAREST} from")
        for side, place, box in zip(wanted, chosen, entry.query_boxes, strict=True):
            image, number = regions[others[np.argsort(np.abs(sides[others] - side), kind="stable")[place]]]
            result.append(Paired(entry.query, image, box[None], rois[image][number][None]))
    return result


def oracle_pairs(
    mined: Sequence[Paired], rois: Mapping[int, Boxes], objects: Mapping[int, Objects], seed: int
) -> list[Paired]:
    """Pair regions on objects of one class, in any two images: as many pairs an image as were mined.

    A region is the object that it overlaps most, from an IoU of 0.5 on (:func:`benchmarks.pair_objects.classes_of`).

    Args:
        mined: their number of pairs an image counts.
        rois: image id -> (n, 4) int32 xywh.
        objects: image id -> its annotated objects.
        seed: of the draws, which are keyed by the image and the number of the pair.

    Returns:
        One entry a pair: a region of the image, drawn from those on an object of whose class another image has a
        region, and a region of that class, drawn from all those of other images. Images without such a region have no
        pair.
    """
    known = {image: classes_of(rois[image], objects[image]) for image in sorted(rois.keys() & objects.keys())}
    by_class: dict[int, list[Region]] = {}
    for image, found in known.items():
        for number in np.flatnonzero(found != NO_OBJECT).tolist():
            by_class.setdefault(int(found[number]), []).append((image, number))
    counts: dict[int, int] = {}
    for entry in mined:
        counts[entry.query] = counts.get(entry.query, 0) + len(entry.query_boxes)
    result = []
    for query in sorted(counts.keys() & known.keys()):
        partners = {
            kind: [region for region in by_class[kind] if region[0] != query]
            for kind in set(known[query].tolist()) - {NO_OBJECT}
        }
        own = [number for number, kind in enumerate(known[query].tolist()) if partners.get(kind)]
        if own:
            key = draws.stream(seed, "proof", "oracle_pairs", query)
            for first, second in draws.uniform(key, np.arange(counts[query], dtype=np.int64), 2).tolist():
                number = own[int(first * len(own))]
                pool = partners[int(known[query][number])]
                image, other = pool[int(second * len(pool))]
                result.append(Paired(query, image, rois[query][number][None], rois[image][other][None]))
    return result


def write_with_pairs(source: TrainingSet, pairs: Sequence[Paired], folder: Path) -> None:
    """Write a copy of a training set with other pairs, unless it lies there already.

    Args:
        source: images and RoIs.
        pairs: of any of its images.
        folder: where to; whole or not at all.
    """
    if (folder / META).is_file():
        return
    rows: dict[int, list[tuple[int, Boxes, Boxes]]] = {}
    for entry in pairs:
        rows.setdefault(entry.query, []).append((entry.neighbor, entry.query_boxes, entry.neighbor_boxes))
    with TrainingSetWriter(folder, source.max_pixels) as writer:
        for position, image in enumerate(source.image_ids.tolist()):
            writer.add(image, source.image_bytes(position), source.rois(position), rows.get(image, []))
