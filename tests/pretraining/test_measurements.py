"""What is measured of features: against closed forms, known spectra, and whatever window holds them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import hyp0f1
from torch.nn import functional

from orl_ray.pretraining.measurements import FeatureWindow, alignment, effective_rank, feature_std, uniformity
from orl_ray.pretraining.place import Place


def random_units(count, dimensions, seed=0):
    return functional.normalize(torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)), dim=1)


def on_axes(scales):
    """Return vectors of mean zero whose singular values are in the ratio of the scales."""
    axes = torch.diag(torch.tensor(scales, dtype=torch.float64))
    return torch.cat([axes, -axes])


@given(st.integers(1, 12), st.integers(0, 6))
def test_effective_rank_of_equal_singular_values_is_their_number(directions, nothing):
    assert effective_rank(on_axes([1.0] * directions + [0.0] * nothing)).item() == pytest.approx(directions)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8))
def test_effective_rank_is_the_exponential_of_the_spectrums_entropy(scales):
    shares = np.array(scales) / np.sum(scales)
    wanted = math.exp(-np.sum(shares * np.log(shares)))
    assert effective_rank(on_axes(scales)).item() == pytest.approx(wanted, rel=1e-9)


def test_effective_rank_knows_no_axes_scale_or_common_direction():
    vectors = on_axes([3.0, 1.0, 0.5, 0.0])
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    turned = 7 * vectors @ rotation + torch.tensor([5.0, 0, 0, 2])
    torch.testing.assert_close(effective_rank(turned), effective_rank(vectors))


def test_effective_rank_of_uniform_directions_comes_near_their_dimensions():
    assert effective_rank(random_units(8000, 16)).item() == pytest.approx(16, rel=0.01)


def test_vectors_that_are_all_the_same_have_no_spread_and_no_distance():
    same = random_units(1, 8).expand(40, 8)
    found = [feature_std(same), uniformity(same), alignment(same, same)]
    assert [value.item() for value in found] == pytest.approx([0, 0, 0], abs=1e-3)
    assert effective_rank(same).item() < 1.01  # what rounding leaves
    assert effective_rank(torch.zeros(40, 8)).item() == 0


def test_total_collapse_leaves_the_rank_and_dimensional_collapse_the_spread():
    """Each measurement tells of one way to collapse, not of the other."""
    noise = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    collapsed = functional.normalize(torch.ones(16) + 0.01 * noise, dim=1)
    assert feature_std(collapsed).item() < 0.02
    assert effective_rank(collapsed).item() > 14
    flat = functional.normalize(noise * torch.tensor([1.0, 1.0, *[0.01] * 14]), dim=1)
    assert effective_rank(flat).item() < 5
    assert uniformity(flat).item() < -1


def test_spread_is_one_for_uniform_directions():
    assert feature_std(random_units(5000, 16)).item() == pytest.approx(1, abs=0.02)


def test_alignment_is_the_mean_squared_distance_of_two_views():
    first, second = random_units(50, 6), random_units(50, 6, seed=1)
    wanted = (2 - 2 * functional.cosine_similarity(first, second)).mean()
    torch.testing.assert_close(alignment(first, second), wanted)
    assert alignment(first, -first).item() == pytest.approx(4, abs=1e-5)
    assert alignment(random_units(9000, 16), random_units(9000, 16, seed=1)).item() == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("dimensions", [3, 16])
def test_uniformity_of_uniform_directions_has_its_closed_form(dimensions):
    # E exp(-2 |x - y|²) = exp(-4) E exp(4 cos), and E exp(k cos) on a sphere is 0F1(d / 2, k² / 4).
    wanted = -4 + math.log(hyp0f1(dimensions / 2, 4.0))
    assert uniformity(random_units(3000, dimensions)).item() == pytest.approx(wanted, abs=0.02)


def batches(count, size, dimensions=4):
    random = torch.Generator().manual_seed(3)
    return [tuple(torch.randn(2, size, dimensions, generator=random)) for _ in range(count)]


def measured(steps):
    window = FeatureWindow(Place())
    for first, second in steps:
        window.add(first, second)
    return window.measure()


def test_a_window_measures_the_newest_vectors_four_a_dimension():
    steps = batches(7, 3)
    first, second = (functional.normalize(torch.cat(views), dim=1) for views in zip(*steps[-3:], strict=True))
    assert measured(steps) == pytest.approx(  # 3 steps of 2 x 3 vectors are the fewest that give 16
        {
            "feature_std": feature_std(torch.cat([first, second])).item(),
            "effective_rank": effective_rank(torch.cat([first, second])).item(),
            "alignment": alignment(first, second).item(),
            "uniformity": (uniformity(first).item() + uniformity(second).item()) / 2,
        },
        rel=1e-5,
    )


def test_a_window_that_is_not_full_gives_no_rank():
    names = [set(measured(batches(count, 3))) for count in (1, 2, 3, 4)]
    short = {"feature_std", "alignment", "uniformity"}
    assert names == [short, short, short | {"effective_rank"}, short | {"effective_rank"}]
    window = FeatureWindow(Place())
    window.add(*batches(1, 3)[0])
    assert window.fills_at(batch_size=3) == 3


def test_a_window_of_many_dimensions_stays_small():
    window = FeatureWindow(Place())
    for step in batches(4, 1500, dimensions=3000):
        window.add(*step)
    assert window.fills_at(batch_size=1500) == 2
    assert [len(first) for first, _ in window._steps] == [1500, 1500]


def test_a_share_without_samples_is_kept_like_any_other():
    steps = batches(6, 3)
    assert measured([*steps[:4], (torch.empty(0, 4), torch.empty(0, 4)), *steps[4:]]) == measured(steps)


def test_features_are_kept_without_what_made_them():
    window, weight = FeatureWindow(Place()), torch.ones(4, requires_grad=True)
    window.add(*(weight * view for view in batches(1, 3)[0]))
    assert not any(view.requires_grad for step in window._steps for view in step)
