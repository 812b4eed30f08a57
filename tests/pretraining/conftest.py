"""Tiny training sets for the tests of pre-training."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter

IMAGES = 10
WITHOUT_ROWS = 3  # the position of the image that has no neighbour


def encoded_scene(number, width, height):
    """Return a PNG with a few coloured rectangles."""
    random = np.random.default_rng(number)
    pixels = np.full((height, width, 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(6):
        x, y = random.integers(0, width - 8), random.integers(0, height - 8)
        pixels[y : y + random.integers(8, 24), x : x + random.integers(8, 24)] = random.integers(0, 255, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Compute on one thread: these networks are tiny, and other processes may want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_object_set(folder):
    """Write a training set with RoIs and pairs; ids are 1000 - 7 * position, sizes differ."""
    ids = [1000 - 7 * position for position in range(IMAGES)]
    with TrainingSetWriter(folder, max_pixels=10_000) as writer:
        for position, image_id in enumerate(ids):
            rois = [[2 * number, number, 16 + number, 20] for number in range(1 + position % 4)]
            neighbours = [
                (ids[(position + step) % IMAGES], [rois[0], rois[-1]], [[step, 0, 18, 17], [0, step, 20, 14]])
                for step in (1, 4, 6)
            ]
            data = encoded_scene(image_id, 40 + position, 56 - position)
            writer.add(image_id, data, rois, [] if position == WITHOUT_ROWS else neighbours)


@pytest.fixture(scope="session")
def object_folder(tmp_path_factory):
    """Return the folder of a training set that every test may read."""
    folder = tmp_path_factory.mktemp("training_sets") / "objects"
    write_object_set(folder)
    return folder


@pytest.fixture
def object_set(object_folder):
    return TrainingSet.open(object_folder)
