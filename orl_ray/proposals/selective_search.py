"""Selective search: hierarchies of regions over colour spaces, scales and similarities, a function of the pixels.

Uijlings et al., "Selective search for object recognition", IJCV 2013. In modes ``fast`` and ``quality`` the set of
boxes is the one that OpenCV gives (:mod:`orl_ray.proposals.opencv_reference`), an order of magnitude faster; ORL calls
mode ``fast`` at native size, unfiltered. OpenCV's blur, gradients and colour conversions are called, so the set is the
same as OpenCV's for one build and CPU.
"""

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals import gradients, histograms, region_map
from orl_ray.proposals.graph_segmentation import merge_components
from orl_ray.proposals.grouping import group, pair_intersections
from orl_ray.proposals.modes import PLANS, Mode, Plan, colour_spaces
from orl_ray.proposals.pixel_graph import edge_weights
from orl_ray.proposals.small_segments import absorb_small, segment_in_order
from orl_ray.scenes.decode import shrink_longer

_HIGHEST_LEVEL = np.iinfo(np.int16).max


class Regions(NamedTuple):
    """Every region of every hierarchy of one image, hierarchy after hierarchy, initial segments before merged regions.

    Attributes:
        boxes: (n, 4) int32 xywh in pixels; several regions may have the same box; n >= 1.
        levels: (n,) int16, 1 for an initial segment, one more than the higher of its two parts for a merged region.
        places: (n,) int32 place in the region's hierarchy, counted from its last merge, which has place 1.
    """

    boxes: NDArray[np.int32]
    levels: NDArray[np.int16]
    places: NDArray[np.int32]


def propose(image: NDArray[np.uint8], mode: Mode, max_side: int = 0) -> Regions:
    """Find the regions of one image, on one thread; parallelise over images.

    Every initial segment is a region, so there is at least one: an image of one colour, or of a single pixel, gives
    exactly the box of the whole image.

    Args:
        image: (H, W, 3) RGB uint8, H and W at least 1.
        mode: ``fast`` (12 hierarchies, what ORL uses), ``quality`` (100 hierarchies) or ``half`` (``fast`` on the
            image at half its size: other boxes, as good after the RoI filter, in a third of the time).
        max_side: if above 0, an image with a longer side is searched at this one, and the boxes are scaled back.

    Returns:
        The regions, the same ones in the same order for the same pixels.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, has no pixels, or the mode is unknown.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"selective search takes a non-empty (H, W, 3) uint8 image, not {image.shape} {image.dtype}")
    if mode not in PLANS:
        raise ValueError(f"unknown selective search mode {mode!r}: use {', '.join(map(repr, PLANS))}")
    plan = PLANS[mode]
    cv2.setNumThreads(1)
    searched = shrink_longer(image, max_side) if 0 < max_side < max(image.shape[:2]) else image
    if plan.shrink > 1:
        height, width = (max(1, side // plan.shrink) for side in searched.shape[:2])
        searched = cv2.resize(np.ascontiguousarray(searched), (width, height), interpolation=cv2.INTER_AREA)
    hierarchies = [tree for space in colour_spaces(searched, mode) for tree in _hierarchies(space, plan)]
    extents = np.concatenate([boxes for boxes, _ in hierarchies])
    levels = np.minimum(np.concatenate([levels for _, levels in hierarchies]), _HIGHEST_LEVEL).astype(np.int16)
    places = np.concatenate([np.arange(len(levels), 0, -1, dtype=np.int32) for _, levels in hierarchies])
    return Regions(_scaled(extents, searched.shape, image.shape), levels, places)


def _hierarchies(space: NDArray[np.uint8], plan: Plan) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Grow the hierarchies of one colour space: for each k and each strategy the regions' extents and levels."""
    height, width, channels = space.shape
    piece_of, labels, counts = _segment(space if channels > 1 else space[:, :, 0], plan)
    cell_of_piece, segment_of = region_map.cells_of(labels, counts)
    cell_map, sizes, boxes, pairs = region_map.map_cells(piece_of, cell_of_piece, segment_of.shape[1], width)
    colours = histograms.count_colours(space, cell_map, len(sizes))
    oriented = gradients.oriented_gradients(space if channels > 1 else space[:, :, 0])
    textures = histograms.count_textures(oriented, cell_map, sizes)
    trees = []
    for segment, count in zip(segment_of, counts.tolist(), strict=True):
        leaves = region_map.segments_from_cells(segment, count, sizes, boxes, pairs)
        colour = histograms.normalised_colours(histograms.add_cells(colours, segment, count))
        texture = histograms.normalised_textures(histograms.add_cells(textures, segment, count))
        alike = pair_intersections(colour, leaves.pairs), pair_intersections(texture, leaves.pairs)
        trees += [group(strategy, *leaves, colour, texture, *alike, height * width) for strategy in plan.strategies]
    return trees


def _segment(space: NDArray[np.uint8], plan: Plan) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Segment one colour space for every k: the pixels' pieces, (K, pieces) segments, and how many there are."""
    weights = edge_weights(space)
    scales = np.array(plan.scales, np.float32)
    piece_of, components, sizes, edges = merge_components(weights, scales, plan.min_size)
    results = [absorb_small(*parts, edges, plan.min_size) for parts in zip(components, sizes, strict=True)]
    if not all(certain for _, _, certain in results):
        return segment_in_order(weights, scales, plan.min_size)
    return piece_of, np.stack([labels for labels, _, _ in results]), np.array([count for _, count, _ in results])


def _scaled(extents: NDArray[np.int32], size: tuple[int, ...], to_size: tuple[int, ...]) -> NDArray[np.int32]:
    """Make xywh boxes of (first, last) pixels and scale them from an image of one (height, width) to another.

    Edges are rounded, so that neighbours still meet.
    """
    first, last = extents[:, :2], extents[:, 2:] + 1
    if size[:2] != to_size[:2]:
        scale = np.array([to_size[1] / size[1], to_size[0] / size[0]])
        first, last = np.rint(first * scale).astype(np.int32), np.rint(last * scale).astype(np.int32)
    return np.concatenate([first, last - first], axis=1)


def environment() -> dict[str, str]:
    """Name what the box set depends on beside the pixels, for an artifact's record.

    Returns:
        ``opencv``: the version; ``opencv_build``: 16 hex digits that identify the build's options; ``opencv_cpu``:
        the instruction sets that OpenCV dispatches to on this machine (its blur and gradients differ in the last bit
        between them).
    """
    build = hashlib.sha256(cv2.getBuildInformation().encode()).hexdigest()[:16]
    return {"opencv": cv2.__version__, "opencv_build": build, "opencv_cpu": cv2.getCPUFeaturesLine()}
