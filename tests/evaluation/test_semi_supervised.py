"""Which setting of a grid each way chooses, and what it was allowed to look at."""

import pytest

from orl_ray.evaluation.classifier_job import ClassifierJob, Data, Judged
from orl_ray.evaluation.recipes import semi_supervised as published_grid
from orl_ray.evaluation.semi_supervised import semi_supervised

GRID = published_grid(1)[:3]
JOB = ClassifierJob(Judged("resnet18", "untrained"), Data("imagenet", "/data", "1%"), GRID[0], 0, "/out")


def trained(test, fold):
    """Return what trains jobs, and the jobs that it was given."""
    seen = []

    def train(job):
        seen.append(job)
        values = fold if job.data.fold else test
        return [{"epoch": 10, "top1 last": -1.0}, {"epoch": 20, "top1 last": values[GRID.index(job.recipe)]}]

    return train, seen


def test_ours_goes_by_the_fold_and_the_published_way_by_the_scored_images():
    train, seen = trained(test=(0.3, 0.5, 0.4), fold=(0.1, 0.2, 0.6))
    chosen = semi_supervised(JOB, GRID, train)
    assert (chosen.published, chosen.ours) == (1, 2)
    assert chosen.points[chosen.ours].test["top1 last"] == 0.4
    assert [(job.recipe, job.data.fold) for job in seen] == [(r, fold) for r in GRID for fold in (False, True)]
    assert {(job.seed, job.folder, job.data.labels) for job in seen} == {(0, "/out", "1%")}


def test_the_scored_images_do_not_change_our_choice():
    for test in ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1)):
        assert semi_supervised(JOB, GRID, trained(test, fold=(0.1, 0.2, 0.3))[0]).ours == 2


def test_equal_settings_go_to_the_first():
    chosen = semi_supervised(JOB, GRID, trained(test=(0.5, 0.5, 0.5), fold=(0.2, 0.4, 0.4))[0])
    assert (chosen.published, chosen.ours) == (0, 1)


def test_no_grid_or_a_fold_of_a_fold_is_refused():
    train, _ = trained((), ())
    with pytest.raises(ValueError, match="grid"):
        semi_supervised(JOB, (), train)
    with pytest.raises(ValueError, match="without a fold"):
        semi_supervised(
            ClassifierJob(JOB.judged, Data("imagenet", "/data", fold=True), GRID[0], 0, "/out"), GRID, train
        )
