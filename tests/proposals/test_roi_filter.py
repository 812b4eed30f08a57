"""The RoI filter: equal to a literal transcription of the greedy rule in rational arithmetic, also at exact ties, and
to the reference's own quotients of floats at any threshold; linear in the boxes that it drops.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.config import Rois
from orl_ray.proposals.roi_filter import filter_rois

SIDE = 24


def overlap(a, b):
    """Return the IoU of two xywh boxes as a fraction, without +1."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    return Fraction(shared, a[2] * a[3] + b[2] * b[3] - shared)


def literal(boxes, width, height, settings):
    """Transcribe the rule word for word: scan, keep, fall back, truncate."""
    kept = []
    for index, box in enumerate(boxes):
        smallest, ratio = min(box[2:]), max(Fraction(box[2], box[3]), Fraction(box[3], box[2]))
        if settings.min_share > 0:
            large = Fraction(smallest, min(width, height)) >= Fraction(str(settings.min_share))
        else:
            large = smallest >= settings.min_size
        if (
            large
            and ratio <= Fraction(str(settings.max_aspect))
            and all(overlap(box, boxes[other]) <= Fraction(str(settings.max_iou)) for other in kept)
        ):
            kept.append(index)
    return (kept or [0])[: settings.max_rois]


@st.composite
def inside(draw):
    """Draw a box inside a SIDE x SIDE image; small numbers make exact ties frequent."""
    width, height = draw(st.integers(1, SIDE)), draw(st.integers(1, SIDE))
    return (draw(st.integers(0, SIDE - width)), draw(st.integers(0, SIDE - height)), width, height)


SETTINGS = st.builds(
    Rois,
    min_size=st.integers(1, 12),
    min_share=st.sampled_from([0.0, 0.0, 0.1, 0.25, 0.3, 0.5]),
    max_aspect=st.sampled_from([1.0, 1.1, 1.5, 2.0, 3.0]),
    max_iou=st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 1.0]),
    max_rois=st.integers(1, 8),
)


@settings(deadline=None)
@given(st.lists(inside(), min_size=1, max_size=30), SETTINGS)
def test_filter_equals_the_literal_rule(rows, settings):
    selection = filter_rois(np.array(rows, np.int32), SIDE, SIDE, settings)
    expected = literal(rows, SIDE, SIDE, settings)
    assert selection.proposal_index.tolist() == expected
    assert selection.boxes.tolist() == [list(rows[index]) for index in expected]
    assert selection.boxes.dtype == selection.proposal_index.dtype == np.int32


def quotients(boxes, width, height, settings):
    """Transcribe the rule as the reference computes it: every box against every kept one, in float64."""
    kept, short = [], float(min(width, height))
    for index, (x, y, w, h) in enumerate(boxes):
        large = min(w, h) / short >= settings.min_share if settings.min_share > 0 else min(w, h) >= settings.min_size
        if not large or max(w / h, h / w) > settings.max_aspect:
            continue
        overlaps = [0.0]
        for left, top, across, down in (boxes[other] for other in kept):
            shared = max(min(x + w, left + across) - max(x, left), 0) * max(min(y + h, top + down) - max(y, top), 0)
            overlaps.append(float(shared) / float(w * h + across * down - shared))
        if max(overlaps) <= settings.max_iou:
            kept.append(index)
    return (kept or [0])[: settings.max_rois]


@st.composite
def collections(draw):
    """Draw an image's size, up to the largest that int32 can hold, and boxes in it, several of them alike."""
    width, height = draw(st.sampled_from([(640, 480), (90_000, 70_000), (2**31 - 1, 2**31 - 1), (1, 1)]))
    share = st.floats(0, 1)
    rows = []
    for x, y, across, down in draw(st.lists(st.tuples(share, share, share, share), min_size=1, max_size=20)):
        w, h = max(1, round(across * width)), max(1, round(down * height))
        rows.append((round(x * (width - w)), round(y * (height - h)), w, h))
    copies = draw(st.lists(st.sampled_from(rows), max_size=10))
    return width, height, rows + copies


THRESHOLDS = st.builds(
    Rois,
    min_size=st.integers(1, 300),
    min_share=st.one_of(st.just(0.0), st.floats(0, 1)),
    max_aspect=st.floats(1, 10),
    max_iou=st.floats(0, 1),
    max_rois=st.integers(1, 30),
)


@settings(deadline=None)
@given(collections(), THRESHOLDS)
def test_filter_equals_the_quotients_of_the_reference_at_any_threshold(collection, settings):
    width, height, rows = collection
    boxes = np.array(rows, np.int32)
    boxes.flags.writeable = False  # as they come from a table
    expected = quotients(rows, width, height, settings)
    assert filter_rois(boxes, width, height, settings).proposal_index.tolist() == expected
    assert filter_rois(np.asfortranarray(boxes), width, height, settings).proposal_index.tolist() == expected


@settings(deadline=None)
@given(st.lists(inside(), min_size=1, max_size=30), SETTINGS)
def test_filtering_the_rois_again_keeps_them_all(rows, settings):
    rois = filter_rois(np.array(rows, np.int32), SIDE, SIDE, settings).boxes
    np.testing.assert_array_equal(filter_rois(rois, SIDE, SIDE, settings).boxes, rois)


def rois(rows, width=1000, height=1000, **settings):
    """Return the kept positions under the published thresholds but for ``settings``."""
    return filter_rois(np.array(rows, np.int32), width, height, Rois(**settings)).proposal_index.tolist()


def test_sides_of_exactly_the_smallest_size_pass():
    assert rois([[0, 0, 95, 200], [0, 0, 96, 96], [300, 300, 200, 95]]) == [1]


def test_an_aspect_of_exactly_three_passes():
    assert rois([[0, 0, 301, 100], [0, 200, 300, 100], [400, 0, 100, 300], [600, 0, 100, 301]]) == [1, 2]


def test_an_iou_of_exactly_one_half_passes():
    # 100 x 200 of the 200 x 200 box: 20,000 / 40,000.
    assert rois([[0, 0, 200, 200], [0, 0, 100, 200]]) == [0, 1]
    assert rois([[0, 0, 200, 200], [0, 0, 101, 200]]) == [0]


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_iou_of_exactly_a_decimal_threshold_passes(tenths):
    whole, part, more = [0, 0, 300, 300], [0, 0, 300, 30 * tenths], [0, 0, 300, 30 * tenths + 1]
    settings = {"min_size": 1, "max_aspect": 300.0, "max_iou": tenths / 10}
    assert rois([whole, part], **settings) == [0, 1]
    assert rois([whole, more], **settings) == [0]


def test_iou_counts_no_extra_pixel():
    # With +1, boxes that only touch would overlap.
    assert rois([[0, 0, 100, 100], [100, 0, 100, 100]], max_iou=0.0) == [0, 1]


def test_a_dropped_box_does_not_drop_others():
    # The second overlaps the first too much; the third only the second.
    assert rois([[0, 0, 100, 100], [30, 0, 100, 100], [60, 0, 100, 100]]) == [0, 2]


def test_a_later_larger_box_never_replaces_an_earlier_one():
    assert rois([[0, 0, 100, 100], [0, 0, 110, 110]]) == [0]


def test_filter_keeps_the_first_raw_box_when_nothing_passes():
    selection = filter_rois(np.array([[5, 6, 7, 8], [0, 0, 20, 20]], np.int32), 50, 50, Rois())
    assert selection.boxes.tolist() == [[5, 6, 7, 8]]
    assert selection.proposal_index.tolist() == [0]


def test_one_box_is_one_roi():
    assert rois([[0, 0, 500, 500]]) == [0]


def test_at_most_max_rois_are_kept_the_first_ones():
    rows = [[100 * column, 100 * row, 100, 100] for row in range(10) for column in range(10)]
    assert rois(rows, max_rois=7) == list(range(7))
    assert len(rois(rows)) == 100


def test_a_share_of_the_short_side_replaces_the_size():
    rows = [[50, 0, 39, 39], [0, 0, 40, 40]]
    assert rois(rows, width=400, height=200, min_share=0.2) == [1]
    assert rois(rows, width=200, height=400, min_share=0.2) == [1]
    # 40 pixels are less than a fifth of 201: nothing passes, the first box is the fall-back.
    assert rois(rows, width=400, height=201, min_share=0.2) == [0]


def test_areas_beyond_32_bits_do_not_overflow():
    rows = [[0, 0, 90_000, 90_000], [0, 0, 90_000, 40_000], [0, 0, 90_000, 50_000]]
    assert rois(rows, width=90_000, height=90_000) == [0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((0, 4), np.int32), "at least one proposal"),
        (np.zeros((2, 3), np.int32), r"\(n, 4\)"),
        (np.array([[0, 0, 0, 5]], np.int32), "inside the image"),
        (np.array([[-1, 0, 5, 5]], np.int32), "inside the image"),
        (np.array([[96, 0, 5, 5]], np.int32), "inside the image"),
        (np.array([[0, 46, 5, 5]], np.int32), "inside the image"),
        (np.array([[2**31 - 1, 0, 5, 5]], np.int32), "inside the image"),
    ],
)
def test_bad_boxes_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        filter_rois(rows, 100, 50, Rois())


def test_boxes_that_are_all_the_same_are_one_roi():
    assert rois([[7, 8, 200, 150]] * 2000) == [0]
    assert rois([[7, 8, 200, 150]] * 5, max_iou=1.0) == [0, 1, 2, 3, 4]


def test_boxes_that_are_dropped_are_compared_with_nothing_later():
    """With the dropped ones, too, these would be 20 billion comparisons: minutes."""
    boxes = np.tile(np.array([[0, 0, 600, 600]], np.int32), (200_000, 1))
    assert rois(boxes, 640, 640) == [0]
