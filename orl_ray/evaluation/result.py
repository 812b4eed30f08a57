"""What an evaluation leaves behind: typed, and as JSON that people and the report read."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Score:
    """One arm's mean average precision under one metric.

    Attributes:
        arm: the encoder, for example ``object_level``.
        metric: ``knn_map`` or ``svm_map``.
        value: mAP in [0, 1] over the scored classes.
        low: lower end of the 95 % interval.
        high: upper end.
        per_class: average precision of each scored class.
    """

    arm: str
    metric: str
    value: float
    low: float
    high: float
    per_class: dict[str, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """The paired difference of two arms under one metric: ``arm`` minus ``baseline``, with its 95 % interval."""

    arm: str
    baseline: str
    metric: str
    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of 0."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """A whole evaluation.

    Attributes:
        rows: one score an arm and metric.
        differences: one an ordered pair of arms and metric.
        classes: the classes that were scored.
        left_out: the other classes, each with the reason.
        positives: scored images that show each scored class.
        fit_images: images that the probes were fitted on.
        scored_images: images that were scored.
        prevalence: mAP of a constant scorer: what knowing nothing is worth.
        svm_unconverged: for each arm the SVMs that stopped at the iteration limit.
        protocol: every constant and setting that shaped the numbers.
        protocol_hash: hash of ``protocol``; only results with the same hash may be compared.
        near_duplicates: images that were not scored, as the encoders were trained on near-duplicates of them.
    """

    rows: tuple[Score, ...]
    differences: tuple[Difference, ...]
    classes: tuple[str, ...]
    left_out: dict[str, str]
    positives: dict[str, int]
    fit_images: int
    scored_images: int
    prevalence: float
    svm_unconverged: dict[str, int]
    protocol: dict[str, Any]
    protocol_hash: str
    near_duplicates: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers."""
        plain = asdict(self)
        for name in ("rows", "differences", "classes"):
            plain[name] = list(plain[name])
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Result":
        """Rebuild a result from :meth:`to_json`.

        Raises:
            ValueError: entries are missing or unknown.
        """
        try:
            return cls(
                **{
                    **plain,
                    "rows": tuple(Score(**row) for row in plain["rows"]),
                    "differences": tuple(Difference(**row) for row in plain["differences"]),
                    "classes": tuple(plain["classes"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"this is not an evaluation result of this version: {error}; run the evaluation again"
            ) from error
