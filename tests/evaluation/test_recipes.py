"""The tables of recipes against the specification, and changes to them."""

import pytest

from orl_ray.evaluation import recipes
from orl_ray.evaluation.recipes import LINEAR, changed, describe, semi_supervised


@pytest.mark.parametrize(
    ("layout", "name", "epochs", "rate", "milestones", "decay"),
    [
        ("imagenet", "layers-28", 28, 0.01, (8, 16, 24), 1e-4),
        ("places205", "layers-14", 14, 0.01, (4, 8, 12), 1e-4),
        ("inaturalist18", "layers-84", 84, 0.01, (24, 48, 72), 1e-4),
        ("imagenet", "layers-90", 90, 0.01, (30, 60, 90), 1e-4),
        ("imagenet", "last-100", 100, 30.0, (60, 80), 0.0),
    ],
)
def test_linear_recipes_are_those_of_the_specification(layout, name, epochs, rate, milestones, decay):
    recipe = LINEAR[layout][name]
    assert (recipe.epochs, recipe.learning_rate, recipe.milestones, recipe.weight_decay) == (
        epochs,
        rate,
        milestones,
        decay,
    )
    assert (recipe.batch, recipe.momentum, recipe.gamma, recipe.side) == (256, 0.9, 0.1, 224)
    assert recipe.nesterov == (recipe.head == "layers")
    assert not recipe.trains_backbone
    assert (recipe.jitter, recipe.lighting) == ((0.4, 0.1) if layout == "imagenet" and recipe.nesterov else (0.0, 0.0))


@pytest.mark.parametrize(("percent", "decay", "others"), [(1, 5e-4, {0.0, 1e-4}), (10, 1e-4, {0.0, 5e-4})])
def test_the_semi_supervised_grid_has_eleven_settings(percent, decay, others):
    grid = semi_supervised(percent)
    assert len(set(grid)) == 11
    main = {(r.learning_rate, r.head_rate) for r in grid if r.weight_decay == decay}
    assert main == {(rate, head) for rate in (0.001, 0.01, 0.1) for head in (1, 10, 100)}
    beside = [r for r in grid if r.weight_decay != decay]
    assert {(r.learning_rate, r.head_rate) for r in beside} == {(0.01, 100)}
    assert {r.weight_decay for r in beside} == others
    assert {(r.epochs, r.milestones, r.gamma, r.batch, r.trains_backbone) for r in grid} == {
        (20, (12, 16), 0.2, 256, True)
    }


def test_other_shares_have_no_grid():
    with pytest.raises(ValueError, match="5 %"):
        semi_supervised(5)


def test_the_rate_steps_at_the_end_of_an_epoch():
    recipe = LINEAR["imagenet"]["layers-28"]
    assert [recipe.rate(epoch) for epoch in (0.0, 7.99, 8.0, 16.5, 27.9)] == pytest.approx(
        [0.01, 0.01, 1e-3, 1e-4, 1e-5]
    )


def test_a_changed_constant_is_of_its_type_and_shows_in_the_description():
    recipe = LINEAR["places205"]["layers-14"]
    other = changed(recipe, ["epochs=2", "milestones=1,2", "nesterov=false", "learning_rate=1"])
    assert (other.epochs, other.milestones, other.nesterov, other.learning_rate) == (2, (1, 2), False, 1.0)
    assert describe(other) != describe(recipe)
    assert other.source == f"changed: {recipe.source}"
    assert changed(recipe, []) == recipe


def test_changes_that_are_none_are_all_told():
    with pytest.raises(ValueError, match=r"epoch=2, batch=many, head=last.*its constants are epochs"):
        changed(recipes.LINEAR["imagenet"]["last-100"], ["epoch=2", "batch=many", "head=last", "momentum=0.8"])
