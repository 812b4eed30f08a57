"""Fine-tuning on 1 % or 10 % of ImageNet's labels: a grid of settings, chosen in two ways (specification 5.3).

The backbone is trained as a whole, batch norms and all, with a new classifier at a rate of its own; the grid is in
``recipes.py``.

* *published*: every setting is trained on the labelled images; the best on the **validation split**, which is what
  is scored, is reported. Optimistic by design.
* *ours*: every setting is trained on the labelled images without a validation fold (20 % of each class), too, and
  scored on that fold; the best there is chosen, and its training on all labelled images, which the published way did
  anyway, is scored on the validation split. Of equal settings the first in the grid is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orl_ray.evaluation.classifier_job import ClassifierJob
from orl_ray.evaluation.classifier_loop import Scores
from orl_ray.evaluation.recipes import Recipe

METRIC = "top1 last"

Train = Callable[[ClassifierJob], list[Scores]]
"""Runs a job to its end, here or on a cluster, and returns its scores."""


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One setting.

    Attributes:
        recipe: the setting.
        test: scores of the validation split, trained on all labelled images.
        fold: scores of the validation fold, trained on the others.
    """

    recipe: Recipe
    test: Scores
    fold: Scores


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a grid comes to.

    Attributes:
        points: every setting, in the order of the grid.
        published: position of the setting that is best on the validation split.
        ours: position of the setting that is best on the fold.
    """

    points: tuple[GridPoint, ...]
    published: int
    ours: int


def semi_supervised(job: ClassifierJob, grid: Sequence[Recipe], train: Train) -> Chosen:
    """Train a grid and choose.

    Args:
        job: backbone, data with the share of their labels, seed and folder; its recipe is not used.
        grid: the settings.
        train: runs one training; finished ones come back from their checkpoints.

    Raises:
        ValueError: the grid is empty, or ``job`` asks for a fold itself.
    """
    if not grid or job.data.fold:
        raise ValueError("semi-supervised: give a grid, and data without a fold: it is cut off here")
    points = []
    for recipe in grid:
        whole = replace(job, recipe=recipe)
        part = replace(whole, data=replace(job.data, fold=True))
        points.append(GridPoint(recipe, train(whole)[-1], train(part)[-1]))
    return Chosen(
        tuple(points), published=_best([point.test for point in points]), ours=_best([p.fold for p in points])
    )


def _best(scores: Sequence[Scores]) -> int:
    values = [entry[METRIC] for entry in scores]
    return values.index(max(values))
