"""Shares of the labels and their validation fold, class by class."""

from pathlib import Path

import numpy as np
import pytest

from orl_ray.evaluation.single_label_layouts import LabelledImages
from orl_ray.evaluation.subsets import drawn, fold, listed


def split(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    paths = tuple(f"train/n{label}/n{label}_{number}.JPEG" for number, label in enumerate(labels))
    return LabelledImages(Path(), paths, labels, tuple(f"n{label}" for label in range(len(counts))))


def test_a_share_is_drawn_from_each_class_and_rounded():
    found = drawn(split(100, 250, 3, 40), 0.1, seed=0)
    assert np.bincount(found.labels).tolist() == [10, 25, 1, 4]
    assert len(set(found.paths)) == 40


def test_the_share_depends_on_the_seed_and_not_on_other_classes():
    images = split(40, 40)
    first, again, other = (drawn(images, 0.25, seed).paths for seed in (0, 0, 1))
    assert first == again != other
    alone = drawn(images.at(np.arange(40)), 0.25, seed=0)
    assert alone.paths == first[:10]


def test_the_fold_and_the_rest_make_up_the_whole_and_do_not_overlap():
    images = split(10, 2, 1)
    rest, held_out = fold(images, seed=3)
    assert sorted((*rest.paths, *held_out.paths)) == sorted(images.paths)
    assert np.bincount(held_out.labels, minlength=3).tolist() == [2, 1, 0]


def test_a_fold_of_single_images_is_refused():
    with pytest.raises(ValueError, match="label more"):
        fold(split(1, 1), seed=0)


@pytest.mark.parametrize("line", ["n1_4.JPEG", "n1/n1_4.JPEG 1"])
def test_a_published_list_names_files_with_or_without_folder_and_label(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"{line}\nn0_0.JPEG\n")
    assert listed(split(3, 3), tmp_path / "list.txt").paths == ("train/n0/n0_0.JPEG", "train/n1/n1_4.JPEG")


@pytest.mark.parametrize(
    ("content", "message"), [("n0_7.JPEG\n", "n0_7"), ("", "empty"), ("n0_0.JPEG\n" * 2, "repeats")]
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        listed(split(3, 3), tmp_path / "list.txt")


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        drawn(split(3), share, seed=0)
