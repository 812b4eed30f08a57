"""Signs of a collapse in what was measured while a network trained, and what to say about them.

A network that learns without labels can cheat: it may give all images one vector (total collapse), or vectors that vary
along few directions only (dimensional collapse). Both show in its features, best against what they were at
initialisation. How that is judged, and on which runs the limits were measured, is told in decision 20.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

History = Sequence[Mapping[str, float]]
"""Measurements of a training, one entry a logged step."""

# A dip is no collapse: so many logged steps in a row must show it, all behind the warm-up.
_LASTING = 3


@dataclass(frozen=True, slots=True)
class Sign:
    """One way to collapse.

    Attributes:
        name: key of an entry that shows it.
        measure: the measurement that tells.
        limit: it shows where the measurement is below so many times its value at initialisation.
        words: what it means, for people; the rest of the sentence gives the numbers.
        advice: what to do, with the stage's section of the settings.
    """

    name: str
    measure: str
    limit: float
    words: str
    advice: str


SIGNS = (
    Sign(
        "total_collapse",
        "feature_std",
        0.25,
        "The features are collapsing: they hardly differ from image to image",
        "Lower {stage}.learning_rate, enlarge {stage}.batch_size, or set {stage}.ema_horizon for a short run.",
    ),
    Sign(
        "dimensional_collapse",
        "effective_rank",
        0.18,
        "The features are losing dimensions: they vary along few directions",
        "Lower {stage}.learning_rate or {stage}.weight_decay, or enlarge {stage}.batch_size.",
    ),
)


def signs(history: History, warmup: float) -> dict[str, float]:
    """Say which signs of a collapse the newest entry shows.

    Args:
        history: entries so far, the newest last; without a resumed training's first ones nothing is told.
        warmup: steps of the learning rate's warm-up, in which nothing is told.

    Returns:
        1.0 under the name of each sign; empty in a healthy training.
    """
    shown = {}
    for sign in SIGNS:
        measured = [entry for entry in history if sign.measure in entry]
        newest = [entry[sign.measure] for entry in measured[1:] if entry["step"] > warmup][-_LASTING:]
        if (
            len(newest) == _LASTING
            and sign.measure in history[-1]
            and max(newest) < sign.limit * measured[0][sign.measure]
        ):
            shown[sign.name] = 1.0
    return shown


def warnings(stage: str, history: History) -> dict[str, str]:
    """Put the signs of a collapse that a training showed into words.

    Args:
        stage: ``image_level`` or ``object_level``, to name settings by.
        history: its entries.

    Returns:
        A few sentences under the name of each sign; empty for a healthy training.
    """
    return {sign.name: text for sign in SIGNS if (text := _warning(sign, stage, history))}


def _warning(sign: Sign, stage: str, history: History) -> str:
    shown = [entry for entry in history if sign.name in entry]
    if not shown:
        return ""
    first = next(entry[sign.measure] for entry in history if sign.measure in entry)
    measure, worst = sign.measure.replace("_", " "), min(entry[sign.measure] for entry in shown)
    last = next((entry for entry in reversed(history) if sign.measure in entry), shown[-1])
    over = "" if sign.name in last else f" It was over by step {last['step']:,.0f}."
    numbers = f"{measure} {worst:.3g} where it was {first:.3g} at initialisation, from step {shown[0]['step']:,.0f} on"
    return f"{sign.words} ({numbers}).{over} {sign.advice.format(stage=stage)}"
