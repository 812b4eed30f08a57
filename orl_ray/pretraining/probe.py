"""A probe that the training loop calls now and then, whatever it may be made of: the loop knows nothing of labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

PREFIX = "probe_"
Score = Callable[[Mapping[str, Tensor]], dict[str, float]]
"""Gets a backbone's tensors by name, must leave them as they are; returns numbers whose names begin with the prefix."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Scores the backbone while it trains.

    Attributes:
        epochs: passes over the images between two scores; the next logged step is taken.
        score: scores the backbone.
    """

    epochs: float
    score: Score

    def is_due(self, history: Sequence[Mapping[str, float]], entry: Mapping[str, float], total: int) -> bool:
        """Tell whether to score now: at the first logged step, every so many epochs, and at the end.

        Args:
            history: earlier entries.
            entry: the present one, with its ``step`` and ``epoch``.
            total: steps in all.
        """
        scored = [earlier["epoch"] for earlier in history if any(name.startswith(PREFIX) for name in earlier)]
        return not scored or entry["epoch"] // self.epochs > scored[-1] // self.epochs or entry["step"] == total
