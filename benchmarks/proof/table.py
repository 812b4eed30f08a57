"""A result as Markdown: the arms' scores, their differences to BYOL, and what the pairs show."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.proof.arms import BASELINE, EQUAL_FLOPS
from orl_ray.evaluation.protocol import METRICS

_TITLES = {"knn_map": "k-NN", "svm_map": "SVM"}


def render(result: Mapping[str, Any]) -> str:
    """Render what :func:`benchmarks.proof.comparison.summary` returns.

    Returns:
        Three tables, with a newline at the end: scores, differences, pairs. mAP and its differences are in percent,
        with 95 % intervals in brackets.
    """
    return "\n".join([_scores(result), _differences(result), _pairs(result)])


def _scores(result: Mapping[str, Any]) -> str:
    head = ["arm", "what it trains on", "TFLOPs", "in all", *(f"mAP, {_TITLES[metric]}" for metric in METRICS)]
    rows = [
        [
            f"`{row['arm']}`",
            row["meaning"],
            f"{row['gflops'] / 1000:.0f}",
            f"{row['gflops_in_all'] / 1000:.0f}",
            *(_interval(row[metric]) for metric in METRICS),
        ]
        for row in result["arms"]
    ]
    return _table(head, rows)


def _differences(result: Mapping[str, Any]) -> str:
    columns = [(metric, baseline) for baseline in (BASELINE, EQUAL_FLOPS) for metric in METRICS]
    head = ["arm", *(f"minus `{baseline}`, {_TITLES[metric]}" for metric, baseline in columns)]
    rows = [
        [
            f"`{row['arm']}`",
            *(_interval(row.get(f"{metric}_minus_{baseline}"), signed=True) for metric, baseline in columns),
        ]
        for row in result["arms"]
    ]
    return _table(head, rows)


def _pairs(result: Mapping[str, Any]) -> str:
    head = ["pairs", "number", "images with any", "both regions objects", "objects of one class"]
    rows = [
        [
            kind,
            f"{row['pairs']:,}",
            f"{row['images']:,}",
            f"{100 * row['objects']:.1f} %",
            f"{100 * row['same_class']:.1f} %",
        ]
        for kind, row in result["pairs"].items()
    ]
    return _table(head, rows)


def _interval(values: Sequence[float] | None, *, signed: bool = False) -> str:
    if values is None:
        return ""
    value, low, high = (f"{100 * number:{'+' if signed else ''}.1f}" for number in values)
    return f"{value} ({low} to {high})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
