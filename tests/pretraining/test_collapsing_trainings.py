"""Short real trainings: what collapses is told, each kind by its name, and what is healthy is not."""

import pytest

from benchmarks.collapse import CASES, IMAGE_LEVEL, SMALL, SMALL_ENCODER, scenes, train_case
from orl_ray.pretraining.collapse import warnings


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return scenes(tmp_path_factory.mktemp("scenes") / "set", seed=0, images=64, side=96)


@pytest.mark.parametrize("name", CASES)
def test_a_training_is_told_to_collapse_where_and_only_where_it_does(photographs, name):
    history = train_case(CASES[name], SMALL[IMAGE_LEVEL], SMALL_ENCODER, 0, photographs)
    assert warnings(IMAGE_LEVEL, history).keys() == CASES[name].raises
    assert len(history) == 60
