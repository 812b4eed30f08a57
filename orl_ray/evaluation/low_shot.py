"""Low-shot VOC07 linear SVMs: k images with a class and (C - 1) k without it, five samples of each size.

As in ORL's ``benchmarks/svm_tools`` (specification 5.1): classifiers and costs of ``voc_svm.py``; for each k, sample
and class, k positives and (C - 1) k negatives (19 k for VOC's 20 classes) are drawn, independently of other classes,
and the rest is ignored, as are images for which neither can be said.

For each k one cost serves all classes. It is chosen in two ways, from the same classifiers:

* *published*: the cost with the best mean, over the samples, of the **test** mAP. Optimistic by design: the test split
  chooses.
* *ours*: the cost with the best mean, over the samples, of the mAP on the training images that the sample left out.
  The test split is read once, at that cost. Only this choice sees more labels than the sample's own.

mean, min, max and standard deviation (of the five, divided by 5, as published) are over the samples. The published code
draws its samples with an unseeded generator; here they are keyed, so that the same ones come back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.parallel import Parallel, delayed

from orl_ray import draws
from orl_ray.evaluation import svm
from orl_ray.evaluation.multilabel_layouts import ABSENT, IGNORED, PRESENT
from orl_ray.evaluation.voc_svm import COSTS, check_targets, classifier_constants, score_known, solver_seed

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Chosen:
    """The test scores at a chosen cost.

    Attributes:
        cost: the cost.
        by_sample: test mAP of each sample.
    """

    cost: float
    by_sample: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the cost, the samples, and their mean, min, max and standard deviation."""
        values = np.array(self.by_sample)
        spread = {"mean": values.mean(), "min": values.min(), "max": values.max(), "std": values.std()}
        return {"cost": self.cost, "by_sample": list(self.by_sample), **{k: float(v) for k, v in spread.items()}}


@dataclass(frozen=True, slots=True)
class LowShot:
    """What k images a class give, with the cost chosen in either way."""

    shots: int
    published: Chosen
    ours: Chosen


def low_shot(
    train_features: NDArray[np.floating],
    train_targets: NDArray[np.int8],
    test_features: NDArray[np.floating],
    test_targets: NDArray[np.int8],
    classes: tuple[str, ...],
    *,
    seed: int,
    shots: Sequence[int] = SHOTS,
    jobs: int = 1,
) -> list[LowShot]:
    """Fit and score every sample at every cost, and choose the cost in both ways.

    Args:
        train_features: (m, D).
        train_targets: (m, C) of 1 present, 0 absent, -1 neither.
        test_features: (n, D).
        test_targets: (n, C), likewise.
        classes: C names.
        seed: draws the samples and seeds the solver.
        shots: the sizes k.
        jobs: processes; they change nothing but the time.

    Raises:
        ValueError: shapes disagree, a class has too few images for the largest sample, or all of its class's positives
            are in the samples of every class, so that nothing is left to choose a cost on.
    """
    check_targets(train_features, train_targets, test_features, test_targets, classes)
    _check_sizes(train_targets, classes, shots)
    fitted, queries = svm.svm_features(train_features), svm.svm_features(test_features)
    tables = Parallel(n_jobs=jobs)(
        delayed(_one_class)(
            fitted, train_targets[:, column], queries, test_targets[:, column], seed, name, shots, len(classes)
        )
        for column, name in enumerate(classes)
    )
    scores = np.stack(tables, axis=-1)  # (validation or test, shots, samples, costs, classes)
    return [_choose(k, *scores[:, row]) for row, k in enumerate(shots)]


def describe(shots: Sequence[int], classes: int) -> dict[str, Any]:
    """List every constant of the protocol."""
    return {
        "classifier": classifier_constants(),
        "costs": list(COSTS),
        "shots": list(shots),
        "samples": SAMPLES,
        "negatives_a_positive": classes - 1,
        "ignored": {"training": "left out", "test": "left out"},
        "choice": {
            "published": "best mean test mAP over the samples, a cost for each k (optimistic)",
            "ours": "best mean mAP over the samples on the training images left out of each sample",
        },
    }


def sample(targets: NDArray[np.int8], shots: int, classes: int, key: int) -> NDArray[np.bool_]:
    """Draw k images with a class and (classes - 1) k without it.

    Args:
        targets: (m,) of 1, 0 and -1.
        shots: k.
        classes: number of classes in the data set.
        key: key of the stream of draws.

    Returns:
        (m,) bool, the images in the sample.
    """
    drawn = draws.uniform(key, np.arange(len(targets)), 1)[:, 0]
    chosen = np.zeros(len(targets), dtype=np.bool_)
    for label, count in ((PRESENT, shots), (ABSENT, (classes - 1) * shots)):
        rows = np.flatnonzero(targets == label)
        chosen[rows[np.argsort(drawn[rows], kind="stable")[:count]]] = True
    return chosen


def _check_sizes(targets: NDArray[np.int8], classes: tuple[str, ...], shots: Sequence[int]) -> None:
    largest = max(shots)
    positives, negatives = (targets == PRESENT).sum(axis=0), (targets == ABSENT).sum(axis=0)
    for name, present, absent in zip(classes, positives, negatives, strict=True):
        if present < largest or absent < (len(classes) - 1) * largest:
            raise ValueError(
                f"class {name!r} has {present} positives and {absent} negatives; {largest} shots take {largest} and "
                f"{(len(classes) - 1) * largest}: ask for fewer shots or leave the class out"
            )


def _one_class(
    fitted: NDArray[np.float64],
    train_targets: NDArray[np.int8],
    queries: NDArray[np.float64],
    test_targets: NDArray[np.int8],
    seed: int,
    name: str,
    shots: Sequence[int],
    classes: int,
) -> NDArray[np.float64]:
    """Return (2, shots, samples, costs): average precision on the left-out training images (NaN: none) and the test."""
    scores = np.full((2, len(shots), SAMPLES, len(COSTS)), np.nan)
    for row, k in enumerate(shots):
        for number in range(SAMPLES):
            key = draws.stream(seed, "evaluation", "low_shot", name, k, number)
            chosen = sample(train_targets, k, classes, key)
            left = np.where(chosen, IGNORED, train_targets)
            for column, cost in enumerate(COSTS):
                classifier = svm.fit_linear_svm(
                    fitted[chosen],
                    train_targets[chosen] == PRESENT,
                    cost,
                    solver_seed(seed, "low_shot", name, k, number),
                )
                if (left == PRESENT).any():
                    scores[0, row, number, column] = score_known(classifier.decision_function(fitted), left)
                scores[1, row, number, column] = score_known(classifier.decision_function(queries), test_targets)
    return scores


def _choose(shots: int, validation: NDArray[np.float64], test: NDArray[np.float64]) -> LowShot:
    """Choose a cost by (samples, costs, classes) of validation and test scores."""
    counted = ~np.isnan(validation).any(axis=(0, 1))  # a class whose positives are all in a sample says nothing here
    if not counted.any():
        raise ValueError(f"{shots} shots: no class has a positive outside the samples to choose the cost on")
    by_test = test.mean(axis=(0, 2))
    by_validation = validation[..., counted].mean(axis=(0, 2))

    def at(best: int) -> Chosen:
        return Chosen(COSTS[best], tuple(float(value) for value in test[:, best].mean(axis=1)))

    return LowShot(shots, published=at(int(np.argmax(by_test))), ours=at(int(np.argmax(by_validation))))
