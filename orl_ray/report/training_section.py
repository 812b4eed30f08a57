"""The training histories on the report page: for each stage its losses, and a chart for all else that was recorded."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from orl_ray.report.charts import Point, line_chart

AXES = ("step", "epoch")
LABELS = {
    "feature_std": "feature spread (1 uniform, 0 collapsed)",
    "lr": "learning rate",
    "ema": "EMA momentum",
    "images_per_second": "images a second",
    "data_wait": "share of time spent waiting for data",
}

History = Sequence[Mapping[str, float]]


def render(histories: Mapping[str, History]) -> str:
    """Write the section's body.

    Args:
        histories: for each training stage its records; all keys but ``step`` and ``epoch`` are drawn, those that begin
            with ``loss`` together.

    Returns:
        HTML.
    """
    parts = []
    for stage, history in histories.items():
        charts = [_chart(stage, name, keys, history) for name, keys in _groups(history).items()]
        name = escape(stage.replace("_", " ").capitalize())
        body = f'<div class="charts">{"".join(charts)}</div>' if charts else "<p>Nothing was recorded.</p>"
        parts.append(f"<h3>{name}</h3>{body}")
    return "\n".join(parts) or "<p>Nothing was trained in this run.</p>"


def _groups(history: History) -> dict[str, list[str]]:
    """Group the recorded keys by chart, losses first, then by first appearance; keys without a number are left out."""
    groups: dict[str, list[str]] = {"loss": []}
    for record in history:
        for key, value in record.items():
            group = "loss" if key.startswith("loss") else key
            if key not in AXES and math.isfinite(value) and key not in groups.setdefault(group, []):
                groups[group].append(key)
    return {group: keys for group, keys in groups.items() if keys}


def _chart(stage: str, name: str, keys: list[str], history: History) -> str:
    axis = "epoch" if all("epoch" in record for record in history) else "step"
    series: dict[str, list[Point]] = {
        _label(key): [(record[axis], record.get(key, math.nan)) for record in history if axis in record] for key in keys
    }
    title = _label(name)[0].upper() + _label(name)[1:]
    chart = line_chart(f"{stage.replace('_', ' ')}: {title}", series, axis, _label(name))
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>"


def _label(key: str) -> str:
    return LABELS.get(key, key.replace("_", " "))
