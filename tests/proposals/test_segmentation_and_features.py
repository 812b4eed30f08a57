"""Graph segmentation, histograms and similarities, piece by piece against OpenCV's own classes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.proposals import gradients, histograms, region_map
from orl_ray.proposals.graph_segmentation import merge_components
from orl_ray.proposals.pixel_graph import SIGMA, edge_weights, sort_edges
from orl_ray.proposals.similarity import COLOUR, FILL, SIZE, TEXTURE, similarity
from orl_ray.proposals.small_segments import absorb_small, segment_in_order

CV = cv2.ximgproc.segmentation
SCALES = (20, 150, 300, 450)


def picture(seed, noise, shape=(70, 90, 3)):
    rng = np.random.default_rng(seed)
    image = np.full(shape, 100, np.uint8)
    for _ in range(8):
        y, x = rng.integers(0, shape[0] - 10), rng.integers(0, shape[1] - 10)
        image[y : y + rng.integers(5, 40), x : x + rng.integers(5, 40)] = rng.integers(0, 256, shape[2:])
    return np.clip(image + rng.normal(0, noise, shape), 0, 255).astype(np.uint8)


def opencv_labels(image, scale, min_size):
    return CV.createGraphSegmentation(SIGMA, float(scale), min_size).processImage(image).ravel()


@pytest.mark.parametrize("noise", [0, 1, 8, 60])
@pytest.mark.parametrize("shape", [(70, 90, 3), (70, 90), (1, 80, 3), (80, 1, 3), (11, 200)])
@pytest.mark.parametrize("min_size", [1, 30, 100])
def test_segments_are_opencvs_for_every_k(noise, shape, min_size):
    rng = np.random.default_rng(noise)
    image = picture(noise, noise, shape) if min(shape[:2]) > 11 else rng.integers(0, 256, shape).astype(np.uint8)
    weights, scales = edge_weights(image), np.array(SCALES, np.float32)
    piece_of, components, sizes, edges = merge_components(weights, scales, min_size)
    _, in_order, _ = segment_in_order(weights, scales, min_size)
    for k, scale in enumerate(SCALES):
        wanted = opencv_labels(image, scale, min_size)
        labels, count, certain = absorb_small(components[k], sizes[k], edges, min_size)
        np.testing.assert_array_equal(in_order[k], wanted)
        if certain:
            np.testing.assert_array_equal(labels[piece_of], wanted)
            assert count == wanted.max() + 1


def test_noisy_pictures_need_no_order_of_equal_weights():
    weights, scales = edge_weights(picture(1, 8)), np.array(SCALES, np.float32)
    _, components, sizes, edges = merge_components(weights, scales, 100)
    assert all(absorb_small(*parts, edges, 100)[2] for parts in zip(components, sizes, strict=True))


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), max_size=300))
def test_edges_are_sorted_by_weight_and_equal_ones_keep_their_order(bits):
    items = (np.array(bits, np.uint64) << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64)
    wanted = items[np.argsort(items >> np.uint64(32), kind="stable")]
    np.testing.assert_array_equal(sort_edges(items.copy(), len(items), np.empty_like(items)), wanted)


@pytest.mark.parametrize("shape", [(70, 90, 3), (70, 90, 1), (1, 1, 3), (2, 300, 3), (300, 1, 1), (60, 200, 3)])
@pytest.mark.parametrize("kind", ["picture", "noise", "constant", "ramp"])
def test_histograms_intersect_as_opencvs_do(shape, kind):
    rng = np.random.default_rng(2)
    image = {
        "picture": lambda: picture(3, 4, shape) if min(shape[:2]) > 10 else rng.integers(0, 90, shape),
        "noise": lambda: rng.integers(0, 256, shape),
        "constant": lambda: np.full(shape, 9),
        "ramp": lambda: np.broadcast_to(np.arange(shape[1])[None, :, None] % 256, shape),
    }[kind]().astype(np.uint8)
    height, width, channels = shape
    count = min(7, width)
    regions = np.ascontiguousarray(np.broadcast_to(np.arange(width) * count // width, (height, width))).astype(np.int32)
    sizes = np.bincount(regions.ravel(), minlength=count).astype(np.int32)
    flat = image if channels > 1 else image[:, :, 0]
    textures = histograms.count_textures(gradients.oriented_gradients(flat), regions, sizes)
    ours = {
        CV.createSelectiveSearchSegmentationStrategyTexture(): histograms.normalised_textures(textures),
        CV.createSelectiveSearchSegmentationStrategyColor(): histograms.normalised_colours(
            histograms.count_colours(image, regions, count)
        ),
    }
    for strategy, tables in ours.items():
        strategy.setImage(flat, regions, sizes[:, None], 1)
        for one in range(count):
            for other in range(count):
                wanted = np.float32(strategy.get(one, other))
                assert np.cumsum(np.minimum(tables[one], tables[other]), dtype=np.float32)[-1] == wanted


def test_similarities_are_opencvs():
    image, quarter = picture(5, 3), np.zeros((70, 90), np.int32)
    quarter[30:, :50], quarter[:, 60:] = 1, 2
    sizes = np.bincount(quarter.ravel()).astype(np.int32)
    pieces = np.arange(3, dtype=np.int32)
    _, _, boxes, pairs = region_map.map_cells(quarter.ravel(), pieces, 3, 90)
    leaves = region_map.segments_from_cells(pieces, 3, sizes, boxes, pairs)
    assert leaves.pairs.tolist() == [[0, 1], [0, 2]]
    parts = {
        COLOUR: CV.createSelectiveSearchSegmentationStrategyColor(),
        FILL: CV.createSelectiveSearchSegmentationStrategyFill(),
        TEXTURE: CV.createSelectiveSearchSegmentationStrategyTexture(),
        SIZE: CV.createSelectiveSearchSegmentationStrategySize(),
    }
    several = CV.createSelectiveSearchSegmentationStrategyMultiple
    strategies = {
        FILL: parts[FILL],
        SIZE: parts[SIZE],
        FILL | TEXTURE | SIZE: several(parts[FILL], parts[TEXTURE], parts[SIZE]),
        COLOUR | FILL | TEXTURE | SIZE: several(*parts.values()),
    }
    for part in parts.values():
        part.setImage(image, quarter, sizes[:, None], 1)
    for number, strategy in strategies.items():
        strategy.setImage(image, quarter, sizes[:, None], 1)
        for one, other in ((0, 1), (0, 2), (2, 1)):
            colour, texture = (np.float32(parts[part].get(one, other)) for part in (COLOUR, TEXTURE))
            ours = similarity(number, colour, texture, boxes[one], boxes[other], sizes[one], sizes[other], quarter.size)
            assert ours == np.float32(strategy.get(one, other))


def test_a_narrow_map_has_no_neighbours_in_its_first_row_and_column():
    row = np.array([0, 0, 1, 1], np.int32)
    *_, pairs = region_map.map_cells(row, np.arange(2, dtype=np.int32), 2, 4)
    assert len(pairs) == 0
