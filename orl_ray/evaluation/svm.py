"""Linear SVM scores on frozen features, one a class: the VOC07 protocol of ORL with a shorter list of costs.

As in ORL's ``benchmarks/svm_tools`` (Jiahao000/ORL @ 2ad64f7): features divided by (length + 1e-5); scikit-learn's
``LinearSVC`` with the L2 penalty, squared hinge loss, dual form, tolerance 1e-4, at most 2,000 iterations, class
weights 2 for present and 1 for absent, intercept scaling 1; the cost of each class is the one with the best mean
average precision over 3 folds of the fitted images.

Different here, and why:

* Costs: {0.01, 0.1, 1, 10}. The published list has 19 values, {1, 10, 100} and 0.5^4 to 0.5^19; the short one spans the
  part of it that small collections choose from, in a fifth of the time. Equal costs in cross-validation go to the
  smallest.
* Folds are stratified by the class and drawn by group, so that they do not depend on the order of the rows and
  near-duplicates do not choose the cost; by image where a side of a class has too few groups.
* Features are the encoder's pooled vector, not the 2 x 2 grid of the last layer.

The scored images never take part in choosing a cost.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from orl_ray import draws
from orl_ray.evaluation.average_precision import average_precision
from orl_ray.evaluation.folds import stratified_folds

COSTS = (0.01, 0.1, 1.0, 10.0)
FOLDS = 3
LENGTH_FLOOR = 1e-5
TOLERANCE = 1e-4
MAX_ITERATIONS = 2000
CLASS_WEIGHTS = {1: 2.0, -1: 1.0}
INTERCEPT_SCALING = 1.0
LEAST_OF_EACH = 2  # every training fold then holds a positive and a negative


@dataclass(frozen=True, slots=True)
class SvmScores:
    """What the classifiers of all classes say.

    Attributes:
        scores: (n, C) float64 signed distances to the separating planes.
        costs: (C,) float64, the cost chosen for each class.
        unconverged: final classifiers that stopped at the iteration limit; the published protocol keeps them, and so
            does this one.
    """

    scores: NDArray[np.float64]
    costs: NDArray[np.float64]
    unconverged: int


def svm_scores(
    fit_vectors: NDArray[np.floating],
    fit_present: NDArray[np.bool_],
    query_vectors: NDArray[np.floating],
    *,
    fit_ids: NDArray[np.int64],
    fit_groups: NDArray[np.int64],
    classes: tuple[str, ...],
    seed: int,
) -> SvmScores:
    """Fit one linear SVM a class and score the query images with it.

    Args:
        fit_vectors: (m, D) features; they are normalised here.
        fit_present: (m, C) bool.
        query_vectors: (n, D) features.
        fit_ids: (m,) int64 image ids, each once.
        fit_groups: (m,) int64 groups of near-duplicates; an image without any is a group of its own.
        classes: C names, the keys of the folds and of the solver's seed.
        seed: the run's seed.

    Returns:
        Scores, chosen costs and how many classifiers did not converge.

    Raises:
        ValueError: a class has fewer than two positives or two negatives among the fitted images.
    """
    fitted, queries = svm_features(fit_vectors), svm_features(query_vectors)
    scores = np.empty((len(queries), len(classes)), dtype=np.float64)
    costs = np.empty(len(classes), dtype=np.float64)
    unconverged = 0
    for column, name in enumerate(classes):
        positives = fit_present[:, column]
        _check_both_sides(positives, name)
        solver_seed = draws.stream(seed, "evaluation", "svm", name) % 2**31
        keys = fit_groups if _groups_suffice(fit_groups, positives) else fit_ids
        folds = stratified_folds(keys, positives, FOLDS, seed, name)
        costs[column] = _best_cost(fitted, positives, folds, solver_seed)
        classifier = fit_linear_svm(fitted, positives, costs[column], solver_seed)
        scores[:, column] = classifier.decision_function(queries)
        unconverged += int(classifier.n_iter_ >= MAX_ITERATIONS)
    return SvmScores(scores, costs, unconverged)


def _groups_suffice(groups: NDArray[np.int64], positives: NDArray[np.bool_]) -> bool:
    """Say whether every training fold holds a positive and a negative where groups are dealt instead of images."""
    with_positives = len(np.unique(groups[positives]))
    return min(with_positives, len(np.unique(groups)) - with_positives) >= LEAST_OF_EACH


def _best_cost(
    vectors: NDArray[np.float64], positives: NDArray[np.bool_], folds: NDArray[np.int64], solver_seed: int
) -> float:
    # A class with two positives leaves one of three folds without any: that fold has no average precision and is not
    # counted.
    tested = [fold for fold in range(FOLDS) if positives[folds == fold].any()]
    means = []
    for cost in COSTS:
        values = []
        for fold in tested:
            inside, outside = folds != fold, folds == fold
            classifier = fit_linear_svm(vectors[inside], positives[inside], cost, solver_seed)
            values.append(average_precision(classifier.decision_function(vectors[outside]), positives[outside]))
        means.append(float(np.mean(values)))
    return COSTS[int(np.argmax(means))]


def linear_svm(cost: float, solver_seed: int) -> LinearSVC:
    """Make a classifier with the constants of the published protocol, not yet fitted.

    Args:
        cost: the penalty of an error.
        solver_seed: from 0 to 2**31 - 1; decides the order in which the solver visits the images.
    """
    return LinearSVC(
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        C=cost,
        tol=TOLERANCE,
        max_iter=MAX_ITERATIONS,
        class_weight=CLASS_WEIGHTS,
        intercept_scaling=INTERCEPT_SCALING,
        random_state=solver_seed,
    )


def fit_linear_svm(
    vectors: NDArray[np.float64], positives: NDArray[np.bool_], cost: float, solver_seed: int
) -> LinearSVC:
    """Fit a classifier.

    Args:
        vectors: (m, D) normalised features.
        positives: (m,) bool, with both sides.
        cost: the penalty of an error.
        solver_seed: as in :func:`linear_svm`.

    Returns:
        A fitted classifier; ``n_iter_`` tells whether it stopped at the limit, which is no error.
    """
    classifier = linear_svm(cost, solver_seed)
    with warnings.catch_warnings():
        # Stopping at the limit is part of the protocol; SvmScores.unconverged counts it, so the warning would say it
        # twice.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(vectors, np.where(positives, 1, -1))


def svm_features(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Divide (n, D) features by (their length + 1e-5); return float64."""
    wide = np.asarray(vectors, dtype=np.float64)
    unit: NDArray[np.float64] = wide / (np.linalg.norm(wide, axis=1, keepdims=True) + LENGTH_FLOOR)
    return unit


def _check_both_sides(positives: NDArray[np.bool_], name: str) -> None:
    fewest = min(int(positives.sum()), int((~positives).sum()))
    if fewest < LEAST_OF_EACH:
        raise ValueError(
            f"SVM: class {name!r} has {int(positives.sum())} positives and {int((~positives).sum())} negatives "
            "among the fitted images; "
            f"it needs {LEAST_OF_EACH} of each: leave the class out or fit on more images"
        )
