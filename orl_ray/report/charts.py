"""Charts as inline SVG: they scale with the page, follow its colours and need neither scripts nor fonts."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 14, 46
ROW_HEIGHT, LABEL_WIDTH = 40, 150
MOST_POINTS = 400  # a line: more cannot be seen at this width, and pages stay small
COLOURS = 8  # .line-0 to .line-7 in page.css


def line_chart(title: str, series: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    """Draw one line a series over common axes.

    Points that are not finite interrupt their line. Long series are thinned by keeping the lowest and highest point of
    each stretch, so that spikes stay visible.

    Args:
        title: what the chart shows, for screen readers.
        series: for each name its (x, y) points by rising x.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.

    Returns:
        An ``<svg>`` element.

    Raises:
        ValueError: no series has a finite point.
    """
    finite = [point for points in series.values() for point in points if _is_finite(point)]
    if not finite:
        raise ValueError(f"chart {title!r}: no finite point to draw")
    x_ticks = ticks(min(x for x, _ in finite), max(x for x, _ in finite))
    y_ticks = ticks(min(y for _, y in finite), max(y for _, y in finite))
    frame = _Frame(x_ticks, y_ticks, legend_rows=len(_legend_rows(list(series))))
    lines = [
        f'<polyline class="line line-{number % COLOURS}" points="{frame.polyline(stretch)}"/>'
        for number, points in enumerate(series.values())
        for stretch in _stretches(points)
    ]
    parts = [*frame.axes(x_label, y_label), *lines, *_legend(list(series), frame.height)]
    return _svg(title, _describe(series, x_label, y_label), frame.height, parts)


def interval_chart(
    title: str, rows: Sequence[tuple[str, float, float, float]], x_label: str, reference: tuple[str, float]
) -> str:
    """Draw values with their intervals, one row each, and a reference line.

    Args:
        title: what the chart shows, for screen readers.
        rows: (label, value, low, high), top to bottom.
        x_label: what the values are, with their unit.
        reference: the label and the place of a dashed vertical line.

    Returns:
        An ``<svg>`` element.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError(f"chart {title!r}: no row to draw")
    numbers = [number for row in rows for number in row[1:]] + [reference[1]]
    x_ticks = ticks(min(numbers), max(numbers))
    bottom = TOP + 18 + ROW_HEIGHT * len(rows)

    def place(x: float) -> float:
        return LABEL_WIDTH + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LABEL_WIDTH - RIGHT - 14)

    parts = [
        f'<line class="grid" x1="{place(x):.1f}" y1="{TOP + 18}" x2="{place(x):.1f}" y2="{bottom}"/>'
        f'<text class="tick" x="{place(x):.1f}" y="{bottom + 18}" text-anchor="middle">{label(x, x_ticks)}</text>'
        for x in x_ticks
    ]
    where = place(reference[1])
    anchor = "start" if where < (LABEL_WIDTH + WIDTH) / 2 else "end"
    parts.append(f'<line class="reference" x1="{where:.1f}" y1="{TOP + 18}" x2="{where:.1f}" y2="{bottom}"/>')
    parts.append(
        f'<text class="tick" x="{where:.1f}" y="{TOP + 8}" text-anchor="{anchor}">'
        f"{escape(reference[0])} {reference[1]:.3f}</text>"
    )
    for number, (name, value, low, high) in enumerate(rows):
        y = TOP + 18 + ROW_HEIGHT * (number + 0.5)
        parts.append(
            f'<text class="name" x="{LABEL_WIDTH - 12}" y="{y + 5:.1f}" text-anchor="end">{escape(name)}</text>'
        )
        parts.append(
            f'<line class="line line-{number % COLOURS}" x1="{place(low):.1f}" y1="{y:.1f}" '
            f'x2="{place(high):.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<circle class="dot dot-{number % COLOURS}" cx="{place(value):.1f}" cy="{y:.1f}" r="6"/>')
    middle = (LABEL_WIDTH + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{bottom + 38}" text-anchor="middle">{escape(x_label)}</text>')
    said = "; ".join(f"{name}: {value:.3f}, from {low:.3f} to {high:.3f}" for name, value, low, high in rows)
    return _svg(title, f"{said}; {reference[0]}: {reference[1]:.3f}", bottom + BOTTOM, parts)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Choose round numbers that span [low, high].

    Args:
        low: smallest value.
        high: largest value, at least ``low``.
        wanted: about how many steps.

    Returns:
        At least two rising numbers, multiples of 1, 2, 2.5 or 5 times a power of ten; the first is at most ``low``, the
        last at least ``high``.
    """
    if high - low <= abs(high) * 1e-9:
        room = abs(high) * 0.1 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def label(value: float, among: Sequence[float]) -> str:
    """Write a tick with just the digits that tell it from its neighbours."""
    step = among[1] - among[0]
    largest = max(abs(among[0]), abs(among[-1]))
    if largest >= 1e6 or largest < 1e-3:
        return f"{value:.3g}"
    digits = next(count for count in range(12) if abs(round(step, count) - step) <= step * 1e-6)
    return f"{value + 0.0:,.{digits}f}"


class _Frame:
    """The plotting area of a line chart: data to pixels, and the axes."""

    def __init__(self, x_ticks: list[float], y_ticks: list[float], legend_rows: int) -> None:
        self.x_ticks, self.y_ticks = x_ticks, y_ticks
        self.height = HEIGHT + 20 * legend_rows
        self.bottom = HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        share = (value - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return self.bottom - share * (self.bottom - TOP)

    def polyline(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def axes(self, x_label: str, y_label: str) -> list[str]:
        across = [
            f'<line class="grid" x1="{LEFT}" y1="{self.y(y):.1f}" x2="{WIDTH - RIGHT}" y2="{self.y(y):.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{self.y(y) + 4:.1f}" text-anchor="end">'
            f"{label(y, self.y_ticks)}</text>"
            for y in self.y_ticks
        ]
        along = [
            f'<line class="axis" x1="{self.x(x):.1f}" y1="{self.bottom}" x2="{self.x(x):.1f}" y2="{self.bottom + 5}"/>'
            f'<text class="tick" x="{self.x(x):.1f}" y="{self.bottom + 19}" text-anchor="middle">'
            f"{label(x, self.x_ticks)}</text>"
            for x in self.x_ticks
        ]
        middle_x, turn = (LEFT + WIDTH - RIGHT) / 2, f"translate(14 {(TOP + self.bottom) / 2}) rotate(-90)"
        return [
            *across,
            *along,
            f'<line class="axis" x1="{LEFT}" y1="{self.bottom}" x2="{WIDTH - RIGHT}" y2="{self.bottom}"/>',
            f'<text class="label" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>',
            f'<text class="label label-y" transform="{turn}" text-anchor="middle">{escape(y_label)}</text>',
        ]


def _legend_rows(names: list[str]) -> list[list[int]]:
    """Break the legend into rows by the length of the names; none for a single line, which the caption names."""
    if len(names) == 1:
        return []
    rows: list[list[int]] = [[]]
    used = 0
    for number, name in enumerate(names):
        width = 44 + 8 * len(name)
        if rows[-1] and used + width > WIDTH - LEFT:
            rows.append([])
            used = 0
        rows[-1].append(number)
        used += width
    return rows


def _legend(names: list[str], height: int) -> list[str]:
    parts = []
    rows = _legend_rows(names)
    for row, members in enumerate(rows):
        x, y = LEFT, height - 20 * (len(rows) - row) + 10
        for number in members:
            parts.append(f'<line class="line line-{number % COLOURS}" x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}"/>')
            parts.append(f'<text class="name" x="{x + 28}" y="{y + 4}">{escape(names[number])}</text>')
            x += 44 + 8 * len(names[number])
    return parts


def _stretches(points: Sequence[Point]) -> list[list[Point]]:
    """Split a series at points that are not finite, and thin it; a lone point becomes a short stroke."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if _is_finite(point):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return [thin(stretch) if len(stretch) > 1 else stretch * 2 for stretch in stretches if stretch]


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Keep the lowest and the highest point of each stretch of a long series, and its two ends.

    Args:
        points: (x, y) by rising x.
        most: about how many points may stay.

    Returns:
        The points themselves if they are few enough.
    """
    if len(points) <= most:
        return list(points)
    stretches = most // 2
    kept = {0, len(points) - 1}
    for number in range(stretches):
        inside = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        kept |= {min(inside, key=lambda at: points[at][1]), max(inside, key=lambda at: points[at][1])}
    return [points[at] for at in sorted(kept)]


def _describe(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    said = []
    for name, points in series.items():
        finite = [point for point in points if _is_finite(point)]
        if finite:
            said.append(f"{name} goes from {finite[0][1]:.4g} to {finite[-1][1]:.4g}")
    return f"{y_label} over {x_label}: {'; '.join(said)}."


def _is_finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )
