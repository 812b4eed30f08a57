"""The training histories on the report page: for each stage what would show a collapse, and charts of all else."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from orl_ray.pretraining.collapse import SIGNS, warnings
from orl_ray.report.charts import Point, line_chart
from orl_ray.report.tables import table

AXES = ("step", "epoch")
# Measurement of the features -> what it is called, and what it says.
FEATURES = {
    "feature_std": ("spread", "1 where directions are uniform, 0 where there is one"),
    "effective_rank": ("effective rank", "along how many directions the features vary"),
    "alignment": ("alignment", "squared distance of an image's two views: 0 where they agree"),
    "uniformity": ("uniformity", "0 where all images are the same, far below where they are spread out"),
}
LABELS = {
    "lr": "learning rate",
    "ema": "EMA momentum",
    "images_per_second": "images a second",
    "data_wait": "share of time spent waiting for data",
    "probe_knn_map": "k-NN on held-out images",
    "probe_chance": "knowing nothing",
}
# Keys that begin so share a chart -> its title, and what its numbers are.
GROUPS = {
    "loss": ("Loss", "loss"),
    "probe_": ("Online probe", "mAP"),
    "ms_": ("Parts of a step", "milliseconds"),
}
_RELATIVE = ("Features against initialisation", "times the value at initialisation")

History = Sequence[Mapping[str, float]]


def render(histories: Mapping[str, History]) -> str:
    """Write the section's body.

    Args:
        histories: for each training stage its records; all keys but ``step`` and ``epoch`` are drawn, those of one
            group together.

    Returns:
        HTML.
    """
    parts = []
    for stage, history in histories.items():
        name = escape(stage.replace("_", " ").capitalize())
        charts = "".join(_charts(stage, history))
        body = f'<div class="charts">{charts}</div>' if charts else "<p>Nothing was recorded.</p>"
        parts.append(f"<h3>{name}</h3>{_collapse(stage, history)}{body}")
    return "\n".join(parts) or "<p>Nothing was trained in this run.</p>"


def _collapse(stage: str, history: History) -> str:
    """Warn of a collapse, and give the numbers that tell of one."""
    said = "".join(f'<p class="warning">{escape(text)}</p>' for text in warnings(stage, history).values())
    rows = []
    for key, (name, meaning) in FEATURES.items():
        values = [record[key] for record in history if key in record]
        if values:
            rows.append((f"{name.capitalize()}: {meaning}", f"{values[0]:.3g}", f"{values[-1]:.3g}"))
    if not rows:
        return said
    return said + table(("Features", "#At initialisation", "#At the end"), rows)


def _charts(stage: str, history: History) -> list[str]:
    """Draw a chart a group of keys: losses, features and the probe, then by first appearance."""
    found = {key: None for record in history for key, value in record.items() if math.isfinite(value)}
    keys = [key for key in found if key not in (*AXES, *(sign.name for sign in SIGNS))]
    grouped: dict[tuple[str, str], dict[str, str]] = {GROUPS["loss"]: {}, _RELATIVE: {}, GROUPS["probe_"]: {}}
    for key in keys:
        if key in FEATURES:
            grouped[_RELATIVE][key] = FEATURES[key][0]
            continue
        prefix = next((prefix for prefix in GROUPS if key.startswith(prefix)), "")
        label = LABELS.get(key, key.removeprefix("ms_").replace("_", " "))
        group = GROUPS.get(prefix, (label[0].upper() + label[1:], label))
        grouped.setdefault(group, {})[key] = label
    return [_chart(stage, *group, lines, history) for group, lines in grouped.items() if lines]


def _chart(stage: str, title: str, unit: str, lines: Mapping[str, str], history: History) -> str:
    axis = "epoch" if all("epoch" in record for record in history) else "step"
    series: dict[str, list[Point]] = {}
    for key, label in lines.items():
        first = next(record[key] for record in history if math.isfinite(record.get(key, math.nan)))
        scale = first or math.inf if key in FEATURES else 1.0
        sparse = key.startswith("probe_")  # not measured at each logged step: the line goes on
        series[label] = [
            (record[axis], record.get(key, math.nan) / scale)
            for record in history
            if axis in record and (key in record or not sparse)
        ]
    chart = line_chart(f"{stage.replace('_', ' ')}: {title}", series, axis, unit)
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>"
