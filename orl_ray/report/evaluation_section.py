"""The evaluation on the report page: intervals, differences, classes, and the protocol behind them."""

import json
from html import escape

from orl_ray.evaluation.result import Result
from orl_ray.report.charts import interval_chart
from orl_ray.report.tables import table
from orl_ray.report.verdict import METRICS, NAMES

INTERVALS = (
    '<p class="note">Intervals come from a paired bootstrap over the scored images and correct for the optimism of mAP '
    "on few images: a value may lie near the upper end of its interval, or above it.</p>"
)


def render(evaluation: Result | str) -> str:
    """Write the section's body.

    Args:
        evaluation: the result, or why there is none.

    Returns:
        HTML.
    """
    if isinstance(evaluation, str):
        return f"<p>Skipped: {escape(evaluation)}</p>"
    metrics = list(dict.fromkeys(row.metric for row in evaluation.rows))
    introduction = (
        f"<p>Frozen features, probed on {evaluation.fit_images:,} images and scored on {evaluation.scored_images:,} "
        f"others, {len(evaluation.classes)} classes. Values are mean average precision (mAP); knowing nothing is worth "
        f"{evaluation.prevalence:.3f}.</p>"
    )
    if evaluation.near_duplicates:
        introduction += (
            f"<p>Test images left out as near-duplicates of training images: {evaluation.near_duplicates:,}.</p>"
        )
    charts = f'<div class="charts">{"".join(_chart(evaluation, metric) for metric in metrics)}</div>'
    parts = (introduction, charts, _differences(evaluation), INTERVALS, _classes(evaluation), _protocol(evaluation))
    return "\n".join(parts)


def _chart(evaluation: Result, metric: str) -> str:
    rows = [(_name(row.arm), row.value, row.low, row.high) for row in evaluation.rows if row.metric == metric]
    title = f"{_metric(metric)}: mAP with 95 % intervals"
    chart = interval_chart(title, rows, "mAP", ("knowing nothing", evaluation.prevalence))
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>"


def _differences(evaluation: Result) -> str:
    rows = [
        (
            f"{escape(_name(gap.arm))} &minus; {escape(_name(gap.baseline))}",
            escape(_metric(gap.metric)),
            f"{100 * gap.value:+.1f}",
            f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}",
            "excludes 0" if gap.excludes_zero else "includes 0: inconclusive",
        )
        for gap in evaluation.differences
    ]
    columns = ("Difference", "Probe", "#Points of mAP", "#95 % interval", "Interval")
    return table(columns, rows, "Paired differences between encoders.")


def _classes(evaluation: Result) -> str:
    columns = (
        "Class",
        "#Scored positives",
        *(f"#{escape(_metric(row.metric))}, {escape(_name(row.arm))}" for row in evaluation.rows),
    )
    rows = [
        (escape(name), str(evaluation.positives[name]), *(f"{row.per_class[name]:.3f}" for row in evaluation.rows))
        for name in evaluation.classes
    ]
    left_out = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in evaluation.left_out.items())
    omitted = f"<p>Left out:</p><ul>{left_out}</ul>" if left_out else "<p>No class was left out.</p>"

    return f"<details><summary>Average precision of each class</summary>{table(columns, rows)}{omitted}</details>"


def _protocol(evaluation: Result) -> str:
    stopped = ", ".join(f"{_name(arm)} {count}" for arm, count in evaluation.svm_unconverged.items())
    text = json.dumps(evaluation.protocol, indent=2, ensure_ascii=False)
    return (
        f"<details><summary>Protocol <code>{escape(evaluation.protocol_hash)}</code></summary>"
        f"<p>Only results with the same hash may be compared. "
        f"SVMs that stopped at the iteration limit: {escape(stopped)}.</p>"
        f"<pre><code>{escape(text)}</code></pre></details>"
    )


def _name(arm: str) -> str:
    return NAMES.get(arm, arm)


def _metric(metric: str) -> str:
    return METRICS.get(metric, metric)
