"""Charts are well-formed SVG, lie inside their frame and say in words what they draw."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orl_ray.report.charts import HEIGHT, WIDTH, interval_chart, label, line_chart, thin, ticks

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg):
    return ET.fromstring(svg)  # noqa: S314 (our own output)


def polylines(svg):
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in parse(svg).iter(f"{SVG}polyline")
    ]


def texts(svg):
    return [text.text for text in parse(svg).iter(f"{SVG}text")]


def test_line_chart_has_title_description_labels_and_legend():
    svg = line_chart("Loss", {"first": [(0, 2.0), (10, 1.0)], "second": [(0, 3.0), (10, 0.5)]}, "epoch", "loss")
    root = parse(svg)
    assert root.find(f"{SVG}title").text == "Loss"
    assert "first goes from 2 to 1; second goes from 3 to 0.5" in root.find(f"{SVG}desc").text
    assert {"epoch", "loss", "first", "second"} <= set(texts(svg))
    assert root.get("role") == "img"


def test_a_single_line_needs_no_legend():
    assert "only" not in texts(line_chart("t", {"only": [(0, 1), (1, 2)]}, "x", "y"))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.floats(-1e9, 1e9)), min_size=1, max_size=30, unique_by=lambda p: p[0]
    ).map(sorted)
)
def test_every_point_is_drawn_inside_the_frame(points):
    for line in polylines(line_chart("t", {"s": points}, "x", "y")):
        for x, y in line:
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_higher_values_are_drawn_higher_and_later_ones_further_right():
    ((low, high),) = polylines(line_chart("t", {"s": [(0, 1.0), (5, 2.0)]}, "x", "y"))
    assert high[1] < low[1]
    assert high[0] > low[0]


def test_values_that_are_not_numbers_interrupt_the_line():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, math.inf), (4, 2.0), (5, 1.0)]
    svg = line_chart("t", {"s": points}, "x", "y")
    assert [len(line) for line in polylines(svg)] == [2, 2]
    assert "nan" not in svg


def test_constant_series_and_single_points_are_drawn():
    assert polylines(line_chart("t", {"s": [(0, 3.0), (1, 3.0)]}, "x", "y"))
    assert polylines(line_chart("t", {"s": [(7, 0.0)]}, "x", "y"))


def test_a_chart_without_a_finite_point_is_refused():
    with pytest.raises(ValueError, match="no finite point"):
        line_chart("t", {"s": [(0, math.nan)]}, "x", "y")


def test_names_and_labels_are_escaped():
    svg = line_chart("<b>", {"<i>&": [(0, 1), (1, 2)], "b": [(0, 1)]}, "<x>", '"y"')
    assert "<i>" not in svg
    assert {"<i>&", "<x>", '"y"'} <= set(texts(svg))


def test_long_legends_break_into_rows_inside_the_frame():
    svg = line_chart("t", {f"a rather long name {n}": [(0, n), (1, n)] for n in range(9)}, "x", "y")
    height = float(parse(svg).get("viewBox").split()[3])
    places = [(float(t.get("x")), float(t.get("y"))) for t in parse(svg).iter(f"{SVG}text") if t.get("class") == "name"]
    assert len(places) == 9
    assert all(x < WIDTH and y < height for x, y in places)


def test_thin_keeps_spikes_and_ends():
    points = [(x, 0.0) for x in range(10_000)]
    points[4321] = (4321, 99.0)
    points[8765] = (8765, -99.0)
    kept = thin(points, 100)
    assert {points[0], points[4321], points[8765], points[-1]} <= set(kept)
    assert len(kept) <= 102
    assert kept == sorted(kept)


def test_thin_leaves_short_series_alone():
    assert thin([(0, 1.0), (1, 2.0)], 2) == [(0, 1.0), (1, 2.0)]


@settings(deadline=None)
@given(st.floats(-1e8, 1e8), st.floats(1e-6, 1e8))
def test_ticks_span_the_range_in_equal_steps(low, span):
    marks = ticks(low, low + span)
    step = marks[1] - marks[0]
    slack = step * 1e-6 + abs(low) * 1e-8
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack
    assert 2 <= len(marks) <= 9


def test_ticks_are_round_numbers():
    assert ticks(0, 12) == [0.0, 2.5, 5.0, 7.5, 10.0, 12.5]
    assert ticks(0.13, 0.46) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@settings(deadline=None)
@given(st.floats(-1e5, 1e5), st.floats(0.01, 1e5))
def test_labels_of_neighbouring_ticks_differ(low, span):
    marks = ticks(low, low + span)
    labels = [label(mark, marks) for mark in marks]
    assert len(set(labels)) == len(labels)


def test_labels_carry_no_more_digits_than_they_need():
    assert [label(value, [0.0, 0.25, 0.5]) for value in (0.0, 0.25)] == ["0.00", "0.25"]
    assert label(2000.0, [0.0, 1000.0, 2000.0]) == "2,000"
    assert label(-0.0, [-0.0, 1.0]) == "0"


def test_interval_chart_places_value_between_its_ends_and_says_the_numbers():
    svg = interval_chart("mAP", [("a", 0.5, 0.4, 0.6), ("b", 0.2, 0.1, 0.3)], "mAP", ("chance", 0.15))
    dots = [float(dot.get("cx")) for dot in parse(svg).iter(f"{SVG}circle")]
    bars = [
        (float(bar.get("x1")), float(bar.get("x2")))
        for bar in parse(svg).iter(f"{SVG}line")
        if re.match("line ", bar.get("class"))
    ]
    for dot, (low, high) in zip(dots, bars, strict=True):
        assert dot == pytest.approx((low + high) / 2, abs=0.2)
    assert "a: 0.500, from 0.400 to 0.600" in parse(svg).find(f"{SVG}desc").text
    assert "chance 0.150" in texts(svg)


def test_interval_chart_without_rows_is_refused():
    with pytest.raises(ValueError, match="no row"):
        interval_chart("t", [], "x", ("chance", 0.1))
