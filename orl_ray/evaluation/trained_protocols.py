"""The protocols that train classifiers, from files to rows: linear probes and semi-supervised fine-tuning."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orl_ray.environment import numeric_environment
from orl_ray.evaluation import recipes, subsets
from orl_ray.evaluation.classifier_job import ClassifierJob
from orl_ray.evaluation.classifier_loop import Scores
from orl_ray.evaluation.recipes import Recipe
from orl_ray.evaluation.rows import Row, over_seeds
from orl_ray.evaluation.semi_supervised import METRIC, Chosen, Train, semi_supervised

BEST_EPOCH = "the epoch is chosen on the images that are scored, as published for last-100"
BEST_SETTING = "the setting is chosen on the images that are scored, as published"


def linear_row(job: ClassifierJob, seeds: Sequence[int], train: Train, device: str) -> Row:
    """Train linear probes under each seed; the finished training is scored, and beside it the best epoch of each.

    Args:
        job: backbone, data and recipe; its seed is not used.
        seeds: the seeds.
        train: runs one training.
        device: kind of device, for the record.
    """
    curves = [train(replace(job, seed=seed)) for seed in seeds]
    last = [_without_epoch(curve[-1]) for curve in curves]
    best = [{f"best {name}": max(entry[name] for entry in curve) for name in last[0]} for curve in curves]
    protocol = {
        "name": "linear",
        "backbone": job.judged.name,
        "data": job.data.describe(seeds[0]),
        "recipe": recipes.describe(job.recipe),
    }
    details = {f"curve, seed {seed}": curve for seed, curve in zip(seeds, curves, strict=True)}
    scores = (*over_seeds(last), *over_seeds(best, BEST_EPOCH))
    return Row(protocol, job.judged.identity(), tuple(seeds), scores, details, numeric_environment(device))


def semi_supervised_row(
    job: ClassifierJob, grid: Sequence[Recipe], seeds: Sequence[int], train: Train, device: str
) -> Row:
    """Fine-tune on a share of the labels under each seed, with the setting chosen in both ways.

    Args:
        job: backbone and data with the share of their labels; its recipe and seed are not used.
        grid: the settings.
        seeds: the seeds; each draws its own share, unless a list gives it.
        train: runs one training.
        device: kind of device, for the record.
    """
    chosen = [semi_supervised(replace(job, seed=seed), grid, train) for seed in seeds]
    ours = [_named("ours", result.points[result.ours].test) for result in chosen]
    published = [_named("published", result.points[result.published].test) for result in chosen]
    protocol = {
        "name": "semi-supervised",
        "backbone": job.judged.name,
        "data": job.data.describe(seeds[0]),
        "grid": [recipes.describe(recipe) for recipe in grid],
        "choice": {
            "ours": f"best {METRIC} on a fold of {subsets.VALIDATION_SHARE} of each class's labelled images",
            "published": f"best {METRIC} on the images that are scored (optimistic)",
        },
    }
    details = {f"grid, seed {seed}": _grid(result) for seed, result in zip(seeds, chosen, strict=True)}
    scores = (*over_seeds(ours), *over_seeds(published, BEST_SETTING))
    return Row(protocol, job.judged.identity(), tuple(seeds), scores, details, numeric_environment(device))


def _grid(chosen: Chosen) -> dict[str, Any]:
    points = [
        {
            "learning_rate": point.recipe.learning_rate,
            "head_rate": point.recipe.head_rate,
            "weight_decay": point.recipe.weight_decay,
            "test": point.test,
            "fold": point.fold,
        }
        for point in chosen.points
    ]
    return {"points": points, "published": chosen.published, "ours": chosen.ours}


def _named(way: str, scores: Scores) -> Scores:
    return {f"{name}, {way}": value for name, value in _without_epoch(scores).items()}


def _without_epoch(scores: Scores) -> Scores:
    return {name: value for name, value in scores.items() if name != "epoch"}
