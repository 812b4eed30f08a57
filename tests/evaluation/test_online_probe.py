"""The online probe: which images it scores, that its score is the protocol's, and that it only reads."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_store import fresh_weights

from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.encoders.backbones import build_backbone
from orl_ray.encoders.weights import load_backbone
from orl_ray.evaluation.average_precision import average_precision
from orl_ray.evaluation.online_probe import plan_probe
from orl_ray.evaluation.stages import probe_features


def planned(small, images=1000):
    config = replace(small.config, execution=replace(small.config.execution, probe_images=images))
    manifests = {name: small.plan(name).key for name in ("scenes", "near_duplicates")}
    return plan_probe(config, small.store, manifests)


@pytest.fixture(scope="module")
def weights(finished):
    tensors = fresh_weights(finished.config, "image_level")
    prefix = "online.backbone."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_a_fold_of_the_training_split_is_scored_whatever_the_evaluation_scores(finished):
    probe, of_test = planned(finished), planned(finished.with_settings(evaluation={"split": "test"}))
    assert {image.split for image in probe.images} == {"train"}
    assert 0 < sum(image.scored for image in probe.images) < len(probe.images) == 20
    assert of_test.images == probe.images


def test_few_images_are_a_keyed_draw_of_all(finished):
    everything, few = planned(finished), planned(finished, images=12)
    assert len(few.images) == 12
    assert set(few.images) <= set(everything.images)


def test_the_score_is_that_of_weighted_neighbours_computed_one_by_one(finished, weights):
    probe = planned(finished)
    found = probe(weights)
    backbone = build_backbone("resnet18")
    load_backbone(backbone, weights)
    encoder = FrozenEncoder(backbone, None, torch.device("cpu"))
    _, vectors = probe_features(finished.config, finished.store, probe.images, {"arm": encoder}, [])
    settings, scored = finished.config.evaluation, [image.scored for image in probe.images]
    fitted = [row for row, is_scored in enumerate(scored) if not is_scored]
    truth = probe.present[scored]
    scores = np.zeros(truth.shape)
    for number, query in enumerate(np.flatnonzero(scored)):
        cosines = {row: float(vectors["arm"][row] @ vectors["arm"][query]) for row in fitted}
        nearest = sorted(cosines, key=lambda row: -cosines[row])[: settings.knn_k]
        near = np.exp([cosines[row] / settings.knn_temperature for row in nearest])
        scores[number] = near @ probe.present[nearest] / near.sum()
    wanted = np.mean([average_precision(scores[:, at], truth[:, at]) for at in range(truth.shape[1])])
    assert found["probe_knn_map"] == pytest.approx(wanted, abs=0.02)  # the reference's vectors are float16
    assert found["probe_chance"] == pytest.approx(truth.mean())


def test_scoring_again_gives_the_same_and_leaves_tensors_draws_and_threads_alone(finished, weights):
    probe, before = planned(finished), {name: tensor.clone() for name, tensor in weights.items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = probe(weights)
    assert probe(weights) == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_other_weights_give_another_score_and_broken_ones_none(finished, weights):
    probe = planned(finished)
    changed = weights | {
        "layer4.1.bn2.weight": -weights["layer4.1.bn2.weight"],
        "conv1.weight": weights["conv1.weight"] ** 2,
    }
    assert probe(changed) != probe(weights)
    assert probe(weights | {"conv1.weight": weights["conv1.weight"] * torch.nan}) == {}


def test_it_goes_to_a_worker_without_images(finished):
    assert len(pickle.dumps(planned(finished))) < 50_000


def test_without_labels_or_with_too_few_there_is_none_and_it_says_why(finished, tmp_path):
    copy = finished.copy(tmp_path / "store")
    assert planned(finished.with_settings(evaluation={"min_positives": 500})).startswith("too few images with labels")
    (source,) = copy.store.root.local.glob("generated/train-*/instances.json")
    content = json.loads(source.read_text())
    source.unlink()
    source.write_text(json.dumps({**content, "annotations": []}))
    assert planned(copy) == "the source has no labels"
