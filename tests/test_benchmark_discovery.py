"""The reference's scheme against brute force and our own functions, and what discovery's benchmark makes of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from benchmarks import discovery
from benchmarks import reference_scheme as reference
from benchmarks.fresh_encoder import fresh_weights
from orl_ray.config import Config, Encoder, Rois
from orl_ray.mining.matching import match, pair_count
from orl_ray.proposals.roi_filter import filter_rois

SIZES = reference.Sizes(40, 32, 32)


@pytest.fixture
def scenes(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for number in range(12):
        coarse = rng.integers(0, 256, (5, 6 + number % 3, 3), np.uint8)
        image = Image.fromarray(coarse).resize((300 + 10 * (number % 3), 260), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.png")
        boxes = [(x, y, 100 + x, 96 + y) for x, y in rng.integers(0, 60, (25, 2)).tolist()]
        made.append(reference.Scene(tmp_path / f"{number}.png", boxes))
    return made


def colours(images):
    """Embed by colours over a coarse grid."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1)


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(1, 400), st.integers(1, 400)),
        min_size=1,
        max_size=60,
    )
)
def test_its_filter_keeps_what_ours_keeps_with_the_published_settings(boxes):
    ours = filter_rois(np.array(boxes, np.int32), 600, 600, Rois()).boxes
    assert reference.box_filter(boxes) == [tuple(box) for box in ours.tolist()]


def test_its_filter_keeps_at_most_a_hundred():
    apart = [(100 * column, 100 * row, 100, 100) for row in range(20) for column in range(20)]
    assert reference.box_filter(apart) == apart[:100]


def test_images_are_resized_and_cropped_as_by_torchvision(scenes):
    wanted = transforms.Compose(
        [
            transforms.Resize(SIZES.resize),
            transforms.CenterCrop(SIZES.crop),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = torch.stack([wanted(Image.open(scene.path).convert("RGB")) for scene in scenes])
    torch.testing.assert_close(
        reference.embed_images(scenes, colours, SIZES), torch.nn.functional.normalize(colours(images), dim=1)
    )


def test_rois_are_cropped_and_resized_as_by_torchvision(scenes):
    boxes = [(10, 20, 100, 120), (0, 0, 300, 260)]
    image = Image.open(scenes[0].path).convert("RGB")
    crops = [transforms.functional.resized_crop(image, y, x, h, w, [SIZES.roi] * 2) for x, y, w, h in boxes]
    wanted = torch.stack([transforms.functional.to_tensor(crop) for crop in crops])
    wanted = transforms.functional.normalize(wanted, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = reference.roi_vectors(scenes, colours, SIZES)(0, boxes)
    torch.testing.assert_close(found, torch.nn.functional.normalize(colours(wanted), dim=1))


def test_the_first_of_the_most_similar_is_dropped_whatever_it_is():
    bank = torch.eye(4)[[0, 0, 1, 2]]
    assert reference.nearest_images(torch.tensor([[0.9, 0.3, 0.2, 0]]), bank[1:], 2) == [[1, 2]]
    found = reference.nearest_images(bank[:1], bank, 1)[0][0]
    assert found in (0, 1)  # an exact duplicate: either it or the image itself survives


def test_matching_equals_ours_and_counts_every_forward(scenes):
    vectors = {}

    def embed(place, boxes):
        rng = np.random.default_rng(place)
        drawn = rng.normal(size=(len(boxes), 16))
        vectors[place] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
        return torch.from_numpy(vectors[place].astype(np.float64))

    found, forwards = reference.match_image(scenes, 3, [5, 0], embed)
    rois = {place: reference.box_filter(scenes[place].proposals) for place in (3, 5, 0)}
    assert forwards == sum(map(len, rois.values()))
    assert [(entry.query, entry.neighbor) for entry in found] == [(3, 5), (3, 0)]
    for entry in found:
        ours = match(vectors[3], vectors[entry.neighbor], pair_count(len(rois[3]), reference.PAIR_RATIO))
        pairs = zip(ours.query_index, ours.neighbor_index, strict=True)
        assert entry.pairs == [(rois[3][query], rois[entry.neighbor][neighbor]) for query, neighbor in pairs]


def test_factors_scale_matching_by_rois_and_queries_by_images():
    run = discovery.ReferenceRun(torch.empty(0), bank_seconds=4, query_seconds=1, match_seconds=6)
    run.roi_forwards = 10 + 20  # of image 0, and of image 1 as its neighbour
    rois, neighbors = np.array([10, 20, 30, 40]), [[1], [2], [3], [0]]
    found = discovery.factors(
        run, {0: [1]}, neighbors, rois, {"rois": 1.0, "neighbors": 4.0}, {"shared": 1.0, "apart": 0.995}
    )
    assert found["forwards_ours"] == 4 + 100
    assert found["forwards_reference"] == 8 + 200
    assert found["scaled_by"] == {"query_images": 4, "rois": round(200 / 30, 2)}
    assert found["cpu_seconds_reference"] == 4 + 4 + 40
    assert found["reuse_factor"] == 2
    assert found["speedup"] == 9.6
    assert found["system_factor"] == 4.8
    assert not found["passes"]  # less than ten times as fast
    assert discovery.factors(run, {0: [1]}, neighbors, rois, {"rois": 4.8}, {"shared": 1.0, "apart": 0.995})["passes"]
    assert not discovery.factors(run, {0: [1]}, neighbors, rois, {"rois": 4.8}, {"shared": 0.999, "apart": 0.995})[
        "passes"
    ]


def test_equal_pairs_are_those_of_the_same_images_and_boxes():
    first, second = ((0, 0, 9, 9), (1, 1, 9, 9)), ((0, 0, 9, 9), (2, 2, 9, 9))
    theirs = discovery.match_keys([reference.Match(0, 1, [first, second])], [70, 80])
    assert theirs == {(70, 80, *first), (70, 80, *second)}
    assert discovery.same_pairs({"apart": theirs}, {(70, 80, *first), (80, 70, *second)}) == {"apart": 0.5}


def test_batch_norm_takes_its_statistics_from_the_images():
    config = Config(encoder=Encoder("resnet18", 16, 8))
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, seen = (discovery.reference_networks(config, fresh_weights(config, given))[1] for given in (None, images))
    with torch.no_grad():
        alike = [torch.corrcoef(network(images)).fill_diagonal_(0).mean() for network in (plain, seen)]
    assert alike[1] < alike[0] - 0.1
    assert all((layer == 0).all() for name, layer in plain.state_dict().items() if name.endswith("running_mean"))
