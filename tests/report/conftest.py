"""A made-up evaluation result that the report tests share."""

import pytest

from orl_ray.evaluation.result import Difference, Result, Score

ARMS = ("object_level", "image_level", "untrained")


@pytest.fixture
def result():
    values = dict(zip(ARMS, (0.5, 0.4, 0.2), strict=True))
    metrics = ("knn_map", "svm_map")
    return Result(
        rows=tuple(
            Score(arm, metric, value, value - 0.1, value + 0.1, {"cat": value, "<dog>": value})
            for metric in metrics
            for arm, value in values.items()
        ),
        differences=tuple(
            Difference(a, b, metric, values[a] - values[b], low, 0.4)
            for metric, low in zip(metrics, (0.02, -0.01), strict=True)
            for a, b in ((ARMS[0], ARMS[1]), (ARMS[0], ARMS[2]), (ARMS[1], ARMS[2]))
        ),
        classes=("cat", "<dog>"),
        left_out={"<rare>": "1 positives among the scored images, fewer than 5"},
        positives={"cat": 70, "<dog>": 40},
        fit_images=1400,
        scored_images=600,
        prevalence=0.1,
        svm_unconverged=dict.fromkeys(ARMS, 0),
        protocol={"version": 1, "note": "</code><script>"},
        protocol_hash="0123456789abcdef",
    )
