"""The VOC07 linear SVM of ORL to the last constant: 19 costs, chosen for each class by 3-fold cross-validation.

As in ``benchmarks/svm_tools`` of Jiahao000/ORL @ 2ad64f7 (specification 5.1), which goes back to Goyal et al., "Scaling
and benchmarking self-supervised visual representation learning" (ICCV 2019). Classifier and normalisation are those of
``svm.py``. Beside them:

* Costs: 1, 10, 100 and 0.5^4 … 0.5^19. Of equal ones in cross-validation the first in this order is taken.
* Cross-validation is scikit-learn's: 3 stratified folds of the rows in the order of the file names, not shuffled,
  scored by scikit-learn's average precision, which does not interpolate.
* Labels: an image for which neither can be said (-1; "difficult" in VOC) is a negative in training and left out of the
  test.
* Score: interpolated average precision of each class on the test split (``average_precision.py``), averaged.

The published code leaves the solver's seed to chance; here it is keyed.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from sklearn.utils.parallel import Parallel, delayed

from orl_ray import draws
from orl_ray.evaluation import svm
from orl_ray.evaluation.average_precision import average_precision
from orl_ray.evaluation.multilabel_layouts import IGNORED, PRESENT

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
FOLDS = 3


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class.

    Attributes:
        average_precision: on the test split.
        cost: the one that was chosen.
        validation: mean average precision of cross-validation at that cost.
        converged: whether the final classifier did.
    """

    average_precision: float
    cost: float
    validation: float
    converged: bool


@dataclass(frozen=True, slots=True)
class SvmResult:
    """All classes.

    Attributes:
        mean_average_precision: over the classes.
        classes: name -> its result.
    """

    mean_average_precision: float
    classes: dict[str, ClassResult]


def voc_svm(
    train_features: NDArray[np.floating],
    train_targets: NDArray[np.int8],
    test_features: NDArray[np.floating],
    test_targets: NDArray[np.int8],
    classes: tuple[str, ...],
    *,
    seed: int,
    jobs: int = 1,
) -> SvmResult:
    """Fit one classifier a class on the training split and score it on the test split.

    Args:
        train_features: (m, D), rows in the order of the file names.
        train_targets: (m, C) of 1 present, 0 absent, -1 neither.
        test_features: (n, D).
        test_targets: (n, C), likewise.
        classes: C names.
        seed: seeds the solver.
        jobs: processes; they change nothing but the time.

    Raises:
        ValueError: shapes disagree, or a class has fewer than 3 images of either side to fit on, or none to score.
    """
    check_targets(train_features, train_targets, test_features, test_targets, classes)
    fitted, queries = svm.svm_features(train_features), svm.svm_features(test_features)
    results = Parallel(n_jobs=jobs)(
        delayed(_one_class)(
            fitted, train_targets[:, column], queries, test_targets[:, column], solver_seed(seed, "voc_svm", name)
        )
        for column, name in enumerate(classes)
    )
    by_class: dict[str, ClassResult] = dict(zip(classes, results, strict=True))
    return SvmResult(float(np.mean([result.average_precision for result in by_class.values()])), by_class)


def describe() -> dict[str, Any]:
    """List every constant of the protocol."""
    return {
        "classifier": classifier_constants(),
        "costs": list(COSTS),
        "choice": {
            "by": "mean average precision, not interpolated, of cross-validation on the training split",
            "folds": FOLDS,
            "stratified": True,
            "shuffled": False,
            "ties": "first cost",
        },
        "ignored": {"training": "negative", "test": "left out"},
        "score": {"average_precision": "monotone envelope", "ties": "one threshold", "over_classes": "mean"},
    }


def classifier_constants() -> dict[str, Any]:
    """List the constants of the classifiers and of the features' normalisation."""
    return {
        "name": "LinearSVC",
        "penalty": "l2",
        "loss": "squared_hinge",
        "dual": True,
        "tolerance": svm.TOLERANCE,
        "max_iterations": svm.MAX_ITERATIONS,
        "class_weights": {"present": svm.CLASS_WEIGHTS[1], "absent": svm.CLASS_WEIGHTS[-1]},
        "intercept_scaling": svm.INTERCEPT_SCALING,
        "features_divided_by": f"length + {svm.LENGTH_FLOOR}",
    }


def score_known(scores: NDArray[np.floating], targets: NDArray[np.int8]) -> float:
    """Return the average precision over the images whose label is known.

    Args:
        scores: (n,).
        targets: (n,) of 1, 0 and -1.
    """
    known = targets != IGNORED
    return average_precision(scores[known], targets[known] == PRESENT)


def solver_seed(seed: int, *names: str | int) -> int:
    """Return the keyed seed of a solver, from 0 to 2**31 - 1."""
    return draws.stream(seed, "evaluation", *names) % 2**31


def check_targets(
    train_features: NDArray[np.floating],
    train_targets: NDArray[np.int8],
    test_features: NDArray[np.floating],
    test_targets: NDArray[np.int8],
    classes: tuple[str, ...],
) -> None:
    """Check that features and labels go together and that each class can be fitted and scored.

    Raises:
        ValueError: they do not, or a class cannot; see :func:`voc_svm`.
    """
    wanted = ((len(train_features), len(classes)), (len(test_features), len(classes)))
    if (train_targets.shape, test_targets.shape) != wanted:
        raise ValueError(f"labels {train_targets.shape} and {test_targets.shape} where {wanted[0]} and {wanted[1]} fit")
    usable = usable_classes(train_targets, test_targets)
    if not usable.all():
        raise ValueError(
            f"class {classes[int(np.argmin(usable))]!r} has fewer than {FOLDS} images with or without it to fit on, "
            "or none with it to score: leave it out"
        )


def usable_classes(train_targets: NDArray[np.int8], test_targets: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Say which classes can be fitted and scored: (C,) bool."""
    present = train_targets == PRESENT
    fitted = np.minimum(present.sum(axis=0), (~present).sum(axis=0)) >= FOLDS
    usable: NDArray[np.bool_] = fitted & (test_targets == PRESENT).any(axis=0)
    return usable


def _one_class(
    fitted: NDArray[np.float64],
    train_targets: NDArray[np.int8],
    queries: NDArray[np.float64],
    test_targets: NDArray[np.int8],
    seed: int,
) -> ClassResult:
    positives = train_targets == PRESENT
    validation = [_cross_validated(fitted, positives, cost, seed) for cost in COSTS]
    best = int(np.argmax(validation))
    classifier = svm.fit_linear_svm(fitted, positives, COSTS[best], seed)
    score = score_known(classifier.decision_function(queries), test_targets)
    return ClassResult(score, COSTS[best], validation[best], bool(classifier.n_iter_ < svm.MAX_ITERATIONS))


def _cross_validated(vectors: NDArray[np.float64], positives: NDArray[np.bool_], cost: float, seed: int) -> float:
    classifier: LinearSVC = svm.linear_svm(cost, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # kept, as published
        scores = cross_val_score(
            classifier, vectors, np.where(positives, 1, -1), cv=FOLDS, scoring="average_precision", n_jobs=1
        )
    return float(scores.mean())
