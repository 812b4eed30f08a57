"""Views: cut where the specification says, from keyed draws that differ by lap, anchor, role and view."""

import numpy as np
import pytest
import torch

from orl_ray import draws
from orl_ray.pretraining import cutting, views
from orl_ray.pretraining.augmentation import PIPELINES, draw_parameters
from orl_ray.pretraining.crops import jitter_boxes, random_resized_crops
from orl_ray.pretraining.cutting import crop_resize
from orl_ray.pretraining.sampling import LapSamples
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.pretraining.views import ViewMaker
from orl_ray.scenes.decode import decode, decode_known

TERMS = ("global", "intra", "inter")
SEED, STAGE = 4, "object_level"


@pytest.fixture
def maker(object_set):
    return ViewMaker(object_set, SEED, STAGE, TERMS, view_size=24, patch_size=16)


@pytest.fixture
def cuts(monkeypatch):
    """Record every cut as (image, box, side)."""
    recorded = []

    def recording(image, box, side):
        recorded.append((image, np.asarray(box).tolist(), side))
        return crop_resize(image, box, side)

    monkeypatch.setattr(cutting, "crop_resize", recording)
    return recorded


def key(*names):
    return draws.stream(SEED, STAGE, *names)


def test_a_sample_is_cut_from_the_drawn_boxes(maker, object_set, cuts):
    lap, position = 2, 6
    maker.crops(lap, position)
    ids = object_set.image_ids[position : position + 1]
    image = decode(object_set.image_bytes(position), object_set.max_pixels)
    extent = np.array([image.shape[1]]), np.array([image.shape[0]])
    rois, rows = object_set.rois(position), object_set.rows(position)
    roi = rois[draws.integers(key(lap, "intra", "roi"), ids, len(rois))[0]]
    row = rows[draws.integers(key(lap, "inter", "neighbor"), ids, len(rows))[0]]
    pair = draws.integers(key(lap, "inter", "pair"), ids, len(row.query_boxes))[0]
    neighbor = decode(object_set.image_bytes(object_set.position(row.neighbor_id)), object_set.max_pixels)
    wanted = [
        (image, random_resized_crops(key(lap, "global", 1, "crop"), ids, *extent)[0], 24),
        (image, random_resized_crops(key(lap, "global", 2, "crop"), ids, *extent)[0], 24),
        (image, roi, 16),
        (image, jitter_boxes(key(lap, "intra", 2, "jitter"), ids, roi[None], *extent)[0], 16),
        (image, row.query_boxes[pair], 16),
        (neighbor, row.neighbor_boxes[pair], 16),
    ]
    assert len(cuts) == 6
    for (cut_image, cut_box, cut_side), (its_image, its_box, its_side) in zip(cuts, wanted, strict=True):
        assert np.array_equal(cut_image, its_image)
        assert (cut_box, cut_side) == (its_box.tolist(), its_side)


def test_crops_come_in_pairs_of_the_wanted_sizes(maker):
    crops = maker.crops(0, 0)
    assert {term: [crop.shape for crop in pair] for term, pair in crops.items()} == {
        "global": [(24, 24, 3)] * 2,
        "intra": [(16, 16, 3)] * 2,
        "inter": [(16, 16, 3)] * 2,
    }


def test_only_the_wanted_terms_are_decoded_and_cut(object_set, cuts, monkeypatch):
    decoded = []
    monkeypatch.setattr(views, "decode_known", lambda *given: decoded.append(1) or decode_known(*given))
    ViewMaker(object_set, SEED, STAGE, ("global",), 24).crops(0, 0)
    assert (len(decoded), len(cuts)) == (1, 2)
    ViewMaker(object_set, SEED, STAGE, ("inter",), 24, 16).crops(0, 0)
    assert (len(decoded), len(cuts)) == (3, 4)


def test_draws_differ_between_laps_views_and_seeds(maker, object_set):
    first, second = maker.crops(0, 5), maker.crops(1, 5)
    assert not np.array_equal(first["global"][0], first["global"][1])
    assert not np.array_equal(first["global"][0], second["global"][0])
    other = ViewMaker(object_set, SEED + 1, STAGE, TERMS, 24, 16).crops(0, 5)
    assert not np.array_equal(first["global"][0], other["global"][0])
    assert all(
        np.array_equal(one, same) for one, same in zip(first["global"], maker.crops(0, 5)["global"], strict=True)
    )


def test_neighbours_and_pairs_are_drawn_uniformly_over_laps(maker, object_set, cuts):
    inter = ViewMaker(object_set, SEED, STAGE, ("inter",), 24, 16)
    for lap in range(300):
        inter.crops(lap, 7)
    neighbor_boxes = [str(box) for _, box, _ in cuts[1::2]]
    counts = [neighbor_boxes.count(name) for name in set(neighbor_boxes)]
    assert len(counts) == 6  # three neighbours with two pairs each
    assert min(counts) > 25


def test_augmentation_differs_between_anchors_laps_roles_and_views(maker, object_set):
    samples = [LapSamples(0, np.array([1, 2])), LapSamples(1, np.array([1]))]
    parameters = maker.parameters(samples)
    rows = [tuple(view.factors[row].tolist()) for pair in parameters.values() for view in pair for row in range(3)]
    assert len(set(rows)) == 3 * 2 * 3
    wanted = draw_parameters(key(1, "inter", 2, "augmentation"), object_set.image_ids[[1]], PIPELINES["byol"][1])
    assert np.array_equal(parameters["inter"][1].factors[2:], wanted.factors)


def test_first_view_is_always_blurred_and_never_solarised(maker):
    parameters = maker.parameters([LapSamples(0, np.arange(10))])
    for first, second in parameters.values():
        assert first.blur.all()
        assert not first.solarise.any()
        assert not second.blur.all()


def test_image_without_rows_shows_one_region_twice_and_has_no_weight(maker):
    first, second = maker.crops(0, 3)["inter"]
    assert np.array_equal(first, second)
    whole = [LapSamples(0, np.array([2, 3, 4, 5]))]
    weights = maker.inter_weights([LapSamples(0, np.array([2, 3]))], whole)
    torch.testing.assert_close(weights, torch.tensor([4 / 3, 0.0]))


def test_batch_without_any_row_has_zero_weights(maker):
    samples = [LapSamples(0, np.array([3]))]
    assert maker.inter_weights(samples, samples).tolist() == [0.0]


def test_weighted_means_of_all_processes_average_to_the_mean_over_images_with_rows(maker):
    whole = [LapSamples(0, np.arange(6))]
    losses = torch.arange(6.0)
    shares = [
        (
            losses[rank * 3 : rank * 3 + 3]
            * maker.inter_weights([LapSamples(0, np.arange(rank * 3, rank * 3 + 3))], whole)
        ).mean()
        for rank in range(2)
    ]
    assert torch.stack(shares).mean().item() == pytest.approx((0 + 1 + 2 + 4 + 5) / 5)


def test_unreadable_image_and_missing_rois_are_errors_with_the_image_id(tmp_path, object_set):
    with TrainingSetWriter(tmp_path / "set", 10_000) as writer:
        writer.add(77, b"not an image")
        writer.add(78, object_set.image_bytes(0))
    broken = TrainingSet.open(tmp_path / "set")
    with pytest.raises(ValueError, match=r"image 77 .* does not decode"):
        ViewMaker(broken, SEED, STAGE, ("global",), 24).crops(0, 0)
    with pytest.raises(ValueError, match="image 78 has no RoI"):
        ViewMaker(broken, SEED, STAGE, ("intra",), 24, 16).crops(0, 1)
