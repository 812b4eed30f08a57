"""The benchmark of training's input: what it compares with is the published recipe, and its figures are told."""

import json
import random
import sys

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from benchmarks import training_input
from benchmarks.pil_recipe import GaussianBlur, PilRecipe, Solarization, jittered, pipeline


def published(view):
    """Return the probabilities of specification 1.5, in its order."""
    return {1: [0.5, 0.8, 0.2, 1.0, 0.0], 2: [0.5, 0.8, 0.2, 0.1, 0.2]}[view]


@pytest.mark.parametrize("view", [1, 2])
def test_the_recipe_has_the_published_operations_in_their_order(view):
    steps = pipeline(view, crop=224).transforms
    crop, flip, jitter, gray, blur, solarise = steps[:6]
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3))
    assert [flip.p, jitter.p, gray.p, blur.p, solarise.p] == published(view)
    colour = jitter.transforms[0]
    assert (colour.brightness, colour.contrast) == ((0.6, 1.4), (0.6, 1.4))
    assert (colour.saturation, colour.hue) == ((0.8, 1.2), (-0.1, 0.1))
    assert [type(blur.transforms[0]), type(solarise.transforms[0])] == [GaussianBlur, Solarization]
    patches = pipeline(view, crop=None).transforms
    assert not any(isinstance(step, transforms.RandomResizedCrop) for step in patches)
    assert len(patches) == len(steps) - 1


def test_jittered_boxes_stay_inside_and_overlap():
    random.seed(0)
    moved = 0
    for _ in range(300):
        w, h = random.randint(20, 200), random.randint(20, 200)
        box = (random.randint(0, 300 - w), random.randint(0, 300 - h), w, h)
        x, y, nw, nh = jittered(box, 300, 300)
        assert min(x, y) >= 0
        assert max(x + nw, y + nh) <= 300
        across, down = (min(box[i] + box[i + 2], (x, y)[i] + (nw, nh)[i]) - max(box[i], (x, y)[i]) for i in (0, 1))
        assert across * down / (w * h + nw * nh - across * down) > 0.5
        moved += (x, y, nw, nh) != box
    assert moved > 200


def test_a_sample_of_the_recipe_has_the_published_views(object_set_of_two):
    views = PilRecipe(object_set_of_two, 48, 24).sample(0)
    assert [view.shape for view in views] == [(48, 48, 3)] * 2 + [(24, 24, 3)] * 4
    assert len(PilRecipe(object_set_of_two, 48).sample(1)) == 2


@pytest.fixture
def object_set_of_two(tmp_path):
    files = photographs(tmp_path, 8)
    return training_input._training_set(files, tmp_path / "set")


def photographs(folder, count):
    images = folder / "images"
    images.mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(images / f"{number}.jpg")
    return sorted(images.iterdir())


def test_the_command_ends_in_json_that_says_whether_it_passes(tmp_path, monkeypatch, capsys):
    photographs(tmp_path, 8)
    arguments = ["x", "--images", str(tmp_path / "images"), "--rounds", "1", "--margin", "0.1"]
    monkeypatch.setattr(sys, "argv", arguments)
    code = training_input.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (0 if result["passes"] else 1)
    for stage in training_input.STAGES:
        for side in training_input.SIDES:
            assert result[stage][side]["samples_a_second"] > 0
        assert result[stage]["pil"]["times_pil_range"] == [1.0, 1.0]
        assert result[stage]["reduced"]["decoded_smaller"] > 0
        assert result[stage]["reduced"]["mean_difference"] > 0
    assert result["pieces"]["cut_difference"]["largest"] <= 2
