"""Gallery pictures: photographs in place, RoIs outlined and joined in their colour."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from orl_ray.report.galleries import (
    GAP,
    MARGIN,
    PAIR_WIDTH,
    PALETTE,
    STRIP_WIDTH,
    group_strip,
    neighbor_strip,
    pair_picture,
    patch_pairs,
)


def plain(colour, height=120, width=160):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def opened(jpeg):
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    return np.asarray(picture.convert("RGB")).astype(int)


def near(pixels, colour, tolerance=40):
    return np.abs(pixels - np.asarray(colour)).max(axis=-1) < tolerance


RED, BLUE = (200, 30, 30), (30, 30, 200)


def test_strip_shows_every_photograph():
    colours = [
        (220, 30, 30),
        (30, 220, 30),
        (30, 30, 220),
        (220, 220, 30),
        (30, 220, 220),
        (220, 30, 220),
        (230, 230, 230),
    ]
    picture = opened(neighbor_strip(plain(colours[0]), [(plain(c), 0.9) for c in colours[1:]]))
    assert picture.shape[1] == STRIP_WIDTH
    assert all(near(picture, colour, 15).sum() > 5000 for colour in colours)


def test_long_captions_stay_under_their_tiles():
    tall = plain((0, 0, 0), height=200, width=120)
    with_id, without = (opened(group_strip([(tall, text), (tall, "")])) for text in ("8804777247764975640", ""))
    columns = np.flatnonzero((np.abs(with_id - without).max(axis=-1) > 40).any(axis=0))
    assert columns.size
    assert columns.max() < MARGIN + 120 + GAP


def test_strip_frames_the_query_only():
    picture = opened(neighbor_strip(plain((0, 0, 0)), [(plain((0, 0, 0)), 0.9)]))
    orange = near(picture, ImageColor.getrgb(PALETTE[0]))
    columns = np.flatnonzero(orange.sum(axis=0) > 100)  # the frame's vertical strokes
    assert columns.min() >= MARGIN - 1
    assert columns.max() < STRIP_WIDTH / 2


@pytest.mark.parametrize("shape", [(600, 40), (40, 1200), (1, 1)])
def test_strip_takes_extreme_shapes(shape):
    picture = opened(neighbor_strip(plain(RED, *shape), [(plain(BLUE, *shape), 0.5)] * 3))
    assert picture.shape[1] == STRIP_WIDTH


def test_group_strip_shows_every_photograph_and_frames_none():
    picture = opened(group_strip([(plain(RED), "1"), (plain(BLUE), "2"), (plain(RED), "3")]))
    assert near(picture, RED).sum() > near(picture, BLUE).sum() > 1000
    assert not near(picture, ImageColor.getrgb(PALETTE[0])).any()
    with pytest.raises(ValueError, match="no photograph"):
        group_strip([])


def test_pair_picture_puts_the_photographs_side_by_side():
    picture = opened(pair_picture(plain(RED), plain(BLUE), [((10, 10, 40, 40), (20, 20, 50, 50), 0.8)]))
    assert picture.shape[1] == PAIR_WIDTH
    reds, blues = np.nonzero(near(picture, RED, 20))[1], np.nonzero(near(picture, BLUE, 20))[1]
    assert np.percentile(reds, 99) < PAIR_WIDTH / 2 < np.percentile(blues, 1)


def test_box_is_outlined_where_it_lies():
    picture = opened(pair_picture(plain((0, 0, 0)), plain((0, 0, 0)), [((40, 30, 80, 60), (0, 0, 160, 120), 0.8)]))
    tile_width = (PAIR_WIDTH - 2 * MARGIN - 3 * GAP) / 2
    scale = tile_width / 160
    orange = near(picture, ImageColor.getrgb(PALETTE[0]), 60)
    bottom, right = MARGIN + 90 * scale, MARGIN + 120 * scale
    middle_x, quarter_y = round(MARGIN + 80 * scale), round(MARGIN + 75 * scale)
    rows = np.flatnonzero(orange[: round(MARGIN + 120 * scale), middle_x])
    assert abs(rows.max() - bottom) < 4
    columns = np.flatnonzero(orange[quarter_y, : PAIR_WIDTH // 2])
    assert abs(columns.min() - (MARGIN + 40 * scale)) < 4
    assert abs(columns.max() - right) < 4


def test_box_of_the_neighbour_is_outlined_at_the_neighbours_own_scale():
    pair = ((0, 0, 10, 10), (100, 200, 300, 200), 0.8)
    picture = opened(pair_picture(plain((0, 0, 0)), plain((0, 0, 0), 480, 640), [pair]))
    tile_width = (PAIR_WIDTH - 2 * MARGIN - 3 * GAP) / 2
    scale, left = tile_width / 640, MARGIN + tile_width + 3 * GAP
    orange = near(picture, ImageColor.getrgb(PALETTE[0]), 60)
    below_the_line = round(MARGIN + 380 * scale)
    columns = np.flatnonzero(orange[below_the_line])
    assert abs(columns.min() - (left + 100 * scale)) < 4
    assert abs(columns.max() - (left + 400 * scale)) < 4


def test_line_joins_the_two_boxes_across_the_gap():
    pairs = [((10, 10, 40, 30), (100, 80, 40, 30), 0.8), ((10, 70, 40, 30), (100, 10, 40, 30), 0.7)]
    picture = opened(pair_picture(plain((0, 0, 0)), plain((0, 0, 0)), pairs))
    gap = picture[: picture.shape[0] - 60, PAIR_WIDTH // 2 - 4 : PAIR_WIDTH // 2 + 4]
    for number in range(2):
        assert near(gap, ImageColor.getrgb(PALETTE[number]), 70).any(axis=0).all()


def test_more_pairs_than_colours_are_drawn():
    pairs = [((n, n, 30, 30), (n, n, 30, 30), 0.9) for n in range(20)]
    few = opened(pair_picture(plain(RED), plain(BLUE), pairs[:3]))
    assert opened(pair_picture(plain(RED), plain(BLUE), pairs)).shape[0] > few.shape[0]  # the legend takes more rows


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 161, 10), (0, 115, 10, 6), (5, 5, 0, 4)])
def test_box_outside_its_photograph_is_refused(box):
    with pytest.raises(ValueError, match="leaves its photograph of 160 x 120"):
        pair_picture(plain(RED), plain(BLUE), [((0, 0, 10, 10), box, 0.5)])


def test_patch_pairs_put_query_left_and_neighbour_right():
    picture = opened(patch_pairs([(plain(RED, 30, 90), plain(BLUE, 70, 20), 0.77)]))
    reds, blues = np.nonzero(near(picture, RED, 20))[1], np.nonzero(near(picture, BLUE, 20))[1]
    assert len(reds) > 10_000
    assert len(blues) > 10_000
    assert reds.max() < blues.min()


def test_patch_pairs_break_into_rows():
    one, four = (opened(patch_pairs([(plain(RED), plain(BLUE), 0.5)] * n)) for n in (1, 4))
    assert four.shape[0] > 1.5 * one.shape[0]
    assert four.shape[1] > 2.5 * one.shape[1]


@pytest.mark.parametrize(
    "draw", [lambda: neighbor_strip(plain(RED), []), lambda: pair_picture(plain(RED), plain(RED), [])]
)
def test_nothing_to_show_is_refused(draw):
    with pytest.raises(ValueError, match="to show"):
        draw()


def test_patch_pairs_without_a_pair_are_refused():
    with pytest.raises(ValueError, match="no pair"):
        patch_pairs([])


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_arrays_that_are_no_rgb_photographs_are_refused(bad):
    with pytest.raises(ValueError, match="uint8 RGB"):
        neighbor_strip(bad, [(plain(RED), 0.5)])


def test_the_same_input_gives_the_same_file():
    pairs = [((10, 10, 40, 40), (20, 20, 50, 50), 0.8)]
    assert pair_picture(plain(RED), plain(BLUE), pairs) == pair_picture(plain(RED), plain(BLUE), pairs)


@pytest.mark.real
def test_real_photographs_are_drawn(scenes_root):
    files = sorted((scenes_root / "coco_dev" / "images").glob("*.jpg"))[:3]
    photographs = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    assert opened(neighbor_strip(photographs[0], [(p, 0.9) for p in photographs[1:]])).std() > 20
