"""Coverage on the page: sums over parts of what is stored and of what training takes."""

from dataclasses import replace

import numpy as np
import pytest

from orl_ray.mining.pair_selection import Coverage
from orl_ray.report.coverage_section import measure, render, summarise


def test_what_is_stored_is_counted_whole_and_the_selection_as_training_takes_it(finished):
    rows, records = finished.rows("correspondences"), finished.records("correspondences")
    floor = float(np.quantile(np.concatenate([row["similarities"] for row in rows]), 0.8))
    mining = replace(finished.config.mining, k=2, pair_ratio=0.6, min_similarity=floor)
    mined, taken = measure(finished.store, records, mining)
    images = len({row["image_id"] for row in rows})
    assert mined == Coverage(images, len(rows), len(rows), sum(len(row["similarities"]) for row in rows))
    kept = {
        (row["image_id"], row["neighbor_id"]): sum(value >= floor for value in row["similarities"])
        for row in rows
        if row["rank"] < 2
    }
    with_pairs = [edge for edge, count in kept.items() if count]
    assert taken == Coverage(len({image for image, _ in with_pairs}), len(with_pairs), 2 * images, sum(kept.values()))
    assert 0 < taken.neighbors < taken.asked


def test_full_coverage_is_said_without_a_warning():
    said = summarise(Coverage(10, 60, 60, 1200), Coverage(10, 30, 30, 300), 10)
    assert said == (
        "Training takes 300 of 1,200 stored pairs, 30.0 an image. 10 of 10 images have at least one (100.0%); "
        "30 of 30 (image, neighbour) have pairs (100.0%)."
    )


@pytest.mark.parametrize("taken", [Coverage(10, 29, 30, 300), Coverage(9, 27, 27, 300)])
def test_gaps_are_explained(taken):
    said = summarise(Coverage(10, 60, 60, 1200), taken, 10)
    assert "takes no part in the loss between images" in said


def test_nothing_mined_is_said():
    nothing = Coverage(0, 0, 0, 0)
    assert summarise(nothing, nothing, 10) == "No regions were paired."


def test_pairs_with_none_of_the_nearest_images_are_said():
    said = summarise(Coverage(10, 60, 60, 1200), Coverage(0, 0, 0, 0), 10)
    assert said == "None of the 1,200 stored pairs is with one of the mining.k nearest images."


def test_the_body_escapes_the_sentence_and_keeps_the_gallery():
    assert render("<b>", "<img>") == "<p>&lt;b&gt;</p><img>"
