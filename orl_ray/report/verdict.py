"""What a run allows to conclude, in sentences: whether training collapsed, and what the numbers can and cannot say."""

import math
from collections.abc import Mapping, Sequence

from orl_ray.evaluation.result import Difference, Result
from orl_ray.pretraining.collapse import warnings

LEAST_SCORED = 500
"""Fewer scored images than this leave intervals of several points of mAP: no claim about a method rests on them."""

LEAST_IMAGES_SEEN = 10_000
"""Fewer images seen in training (images x epochs) than this is a smoke run; the published run sees 95 million."""

COLLAPSED_STD = 0.05
"""Spread of the features at which they count as collapsed: 1 where directions are uniform, 0 where all are the same."""

NOT_COVERED = (
    "The intervals cover the choice of the scored images only. Another seed of training may move the numbers as well: "
    "repeat the run with other seeds before relying on a difference."
)

NAMES = {"object_level": "object-level", "image_level": "image-level", "untrained": "untrained"}
METRICS = {"knn_map": "k-NN", "svm_map": "SVM"}

History = Sequence[Mapping[str, float]]


def conclude(result: Result | None, histories: Mapping[str, History], images: int) -> list[str]:
    """Write the verdict on a run.

    Args:
        result: the evaluation, or None where there were no labels.
        histories: for each training stage its records; ``loss``, ``feature_std`` and ``epoch`` (passes completed, may
            be fractional) are read.
        images: images of the training split.

    Returns:
        Sentences, most important first; at least one.
    """
    trouble = [_trouble(stage, history) for stage, history in histories.items()]
    broken = [sentence for sentence in trouble if sentence]
    sound = [
        _name(stage) for stage, sentence in zip(histories, trouble, strict=True) if not sentence and histories[stage]
    ]
    healthy = [f"No sign of collapse or of a broken loss in {' and '.join(sound)} training."] if sound else []
    if result is None:
        unscored = "No result was scored in this run, so nothing can be concluded: look at the galleries to judge it."
        return [*broken, unscored, *healthy]
    small = _too_small(result, histories, images)
    return [*broken, *small, *_comparisons(result), *healthy, NOT_COVERED]


def _trouble(stage: str, history: History) -> str:
    """Say what went wrong in a training; empty if nothing shows."""
    name = _name(stage)
    broken = next((record for record in history if not math.isfinite(record.get("loss", 0.0))), None)
    if broken is not None:
        return f"The {name} training broke: its loss stopped being a number at step {broken.get('step', 0):,.0f}."
    if told := warnings(stage, history):
        return f"The {name} training looks bad. {' '.join(told.values())}"
    spread = [record["feature_std"] for record in history if "feature_std" in record]
    if not spread or spread[-1] > COLLAPSED_STD:
        return ""
    return (
        f"The {name} representation is collapsing: its features hardly differ from image to image "
        f"(spread {spread[-1]:.3f} at the end, {max(spread):.3f} at its highest, 1 is uniform). "
        f"Lower {stage}.learning_rate, enlarge {stage}.batch_size, or set {stage}.ema_horizon for a short run."
    )


def _too_small(result: Result, histories: Mapping[str, History], images: int) -> list[str]:
    reasons = []
    if result.scored_images < LEAST_SCORED:
        reasons.append(f"{result.scored_images:,} scored images, where at least {LEAST_SCORED:,} are wanted")
    for stage, history in histories.items():
        seen = images * max((record.get("epoch", 0.0) for record in history), default=0.0)
        if seen < LEAST_IMAGES_SEEN:
            wanted = f"at least {LEAST_IMAGES_SEEN:,} are wanted"
            reasons.append(f"{seen:,.0f} images seen in {_name(stage)} training, where {wanted}")
    if not reasons:
        return []
    return [f"This run is too small to conclude anything about the method: {'; '.join(reasons)}."]


def _comparisons(result: Result) -> list[str]:
    """Compare with image-level training first: that is what the object level has to beat."""
    headline = [gap for gap in result.differences if (gap.arm, gap.baseline) == ("object_level", "image_level")]
    learnt = [gap for gap in result.differences if gap.baseline == "untrained"]
    return [_compared(gap) for gap in headline + learnt]


def _compared(gap: Difference) -> str:
    numbers = f"{100 * gap.value:+.1f} points of mAP, 95 % interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
    subject = f"{METRICS.get(gap.metric, gap.metric)}: {_name(gap.arm)} against {_name(gap.baseline)}"
    if not gap.excludes_zero:
        return f"{subject} is inconclusive: the interval of the difference includes 0 ({numbers})."
    return f"{subject} is {'better' if gap.low > 0 else 'worse'} on these images ({numbers})."


def _name(stage: str) -> str:
    return NAMES.get(stage, stage.replace("_", " "))
