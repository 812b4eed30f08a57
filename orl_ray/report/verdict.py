"""What a run allows to conclude, in sentences: whether training collapsed, what the numbers say, and what they cannot say."""

import math
from collections.abc import Mapping, Sequence

from orl_ray.evaluation.result import Difference, Result

LEAST_SCORED = 500
"""Fewer scored images than this leave intervals of several points of mAP: no claim about a method rests on them."""

LEAST_IMAGES_SEEN = 10_000
"""Fewer images seen in training (images x epochs) than this is a smoke run; the published run sees 95 million."""

COLLAPSED_STD = 0.005
"""Standard deviation of unit outputs over a batch, mean over dimensions. Spread evenly it is 1 / sqrt(D): 0.088 for D = 128, 0.022 for 2048."""

COLLAPSED_SHARE = 0.1
"""Falling under this share of its own highest value is a sign of collapse whatever the dimension."""

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
    trouble = [sentence for stage, history in histories.items() for sentence in _training_signs(stage, history)]
    if result is None:
        return [*trouble, "No labels were given, so nothing was scored: look at the galleries to judge what was found."]
    small = _too_small(result, histories, images)
    return [*trouble, *small, *_comparisons(result), _what_is_not_covered()]


def _training_signs(stage: str, history: History) -> list[str]:
    name = _name(stage)
    if not history:
        return []
    broken = next((record for record in history if not math.isfinite(record.get("loss", 0.0))), None)
    if broken is not None:
        return [f"The {name} training broke: its loss stopped being a number at step {broken.get('step', 0):,.0f}."]
    spread = [record["feature_std"] for record in history if "feature_std" in record]
    if not spread:
        return []
    if spread[-1] <= max(COLLAPSED_STD, COLLAPSED_SHARE * max(spread)):
        return [
            f"The {name} representation is collapsing: its features hardly differ from image to image "
            f"(standard deviation {spread[-1]:.4f} at the end, {max(spread):.4f} at its highest). Lower the learning rate, "
            "train with a larger batch, or set ema_horizon for short runs."
        ]
    return [f"The {name} training shows no sign of collapse (feature standard deviation {spread[-1]:.4f} at the end)."]


def _too_small(result: Result, histories: Mapping[str, History], images: int) -> list[str]:
    reasons = []
    if result.scored_images < LEAST_SCORED:
        reasons.append(f"{result.scored_images:,} scored images, where at least {LEAST_SCORED:,} are wanted")
    for stage, history in histories.items():
        seen = images * max((record.get("epoch", 0.0) for record in history), default=0.0)
        if seen < LEAST_IMAGES_SEEN:
            reasons.append(
                f"{seen:,.0f} images seen in {_name(stage)} training, where at least {LEAST_IMAGES_SEEN:,} are wanted"
            )
    if not reasons:
        return []
    return [f"This run is too small to conclude anything about the method: {'; '.join(reasons)}."]


def _comparisons(result: Result) -> list[str]:
    sentences = [
        _compared(gap) for gap in result.differences if (gap.arm, gap.baseline) == ("object_level", "image_level")
    ]
    learnt = [gap for gap in result.differences if gap.baseline == "untrained"]
    return sentences + [_compared(gap) for gap in learnt]


def _compared(gap: Difference) -> str:
    numbers = f"{100 * gap.value:+.1f} points of mAP, 95 % interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
    subject = f"{METRICS.get(gap.metric, gap.metric)}: {_name(gap.arm)} against {_name(gap.baseline)}"
    if not gap.excludes_zero:
        return f"{subject} is inconclusive: the interval of the difference includes 0 ({numbers})."
    return f"{subject} is {'better' if gap.low > 0 else 'worse'} on these images ({numbers})."


def _what_is_not_covered() -> str:
    return (
        "The intervals cover the choice of the scored images only. Another seed of training may move the numbers as well: "
        "repeat the run with other seeds before relying on a difference."
    )


def _name(stage: str) -> str:
    return NAMES.get(stage, stage.replace("_", " "))
