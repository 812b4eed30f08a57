"""Classifiers on a backbone: one step by hand, scores by scikit-learn, resuming, and what theory says of features."""

import math
from dataclasses import replace

import numpy as np
import published_layouts
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from orl_ray.embeddings.vectors import colours
from orl_ray.encoders.backbones import Backbone, build_backbone, initialise
from orl_ray.evaluation.classifier import Classifier
from orl_ray.evaluation.classifier_loop import score, train_classifier
from orl_ray.evaluation.image_views import central, read
from orl_ray.evaluation.layers import LAYERS
from orl_ray.evaluation.recipes import LINEAR, semi_supervised
from orl_ray.evaluation.single_label_layouts import imagenet
from orl_ray.evaluation.training_views import training_batches, training_input
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.sampling import SampleStream, Share

LAST = replace(LINEAR["imagenet"]["last-100"], epochs=4, batch=6, side=32, learning_rate=0.5, milestones=(3,))
LAYERED = replace(LINEAR["imagenet"]["layers-28"], epochs=1, batch=3)
TUNED = replace(semi_supervised(1)[4], epochs=2, batch=6, side=32)
CLASSES = ("n01", "n02", "n03", "n04", "n05", "n06", "n07")
HERE = torch.device("cpu")


class Memory:
    """Checkpoints in memory."""

    def __init__(self):
        self.saved = []

    def latest(self) -> Checkpoint | None:
        return self.saved[-1] if self.saved else None

    def save(self, checkpoint: Checkpoint) -> None:
        self.saved.append(checkpoint)


class Killed(Exception):
    pass


class MeanColour(torch.nn.Module):
    """Features that tell the painted classes apart."""

    features = 3

    def forward(self, images):
        return images.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = published_layouts.imagenet(tmp_path_factory.mktemp("imagenet"), train=4, val=3)
    return imagenet(root, "train"), imagenet(root, "val")


def untrained() -> Backbone:
    backbone = build_backbone("resnet18")
    initialise(backbone, 0, "image_level", "backbone")
    return backbone


def run(splits, recipe, store=None, *, backbone=None, on_step=lambda *_: None, seconds=math.inf, seed=0):
    return train_classifier(
        backbone or untrained(),
        recipe,
        *splits,
        seed=seed,
        checkpoints=Memory() if store is None else store,
        place=Place(),
        on_step=on_step,
        checkpoint_seconds=seconds,
        threads=2,
    )


def test_two_steps_are_those_of_sgd_on_the_cross_entropy_by_hand(splits):
    train, _ = splits
    recipe = replace(LAST, epochs=1, weight_decay=0.01, nesterov=True, learning_rate=0.2, head_rate=2.0)
    store = Memory()
    run(splits, recipe, store)
    classifier = Classifier(untrained(), recipe, 3, 0).train()
    weight, bias = (classifier.heads["last"].state_dict()[name].double().numpy().copy() for name in ("weight", "bias"))
    momenta = [np.zeros_like(weight), np.zeros_like(bias)]
    stream = SampleStream(0, "evaluation classifier", 12, 6)
    for batch in training_batches(train, recipe, stream, [Share(0), Share(1)], 1):
        with torch.no_grad():
            features = classifier.backbone(training_input(batch, HERE)).double().numpy()
        logits = features @ weight.T + bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        error = (shares - np.eye(3)[batch.labels.numpy()]) / 6
        gradients = [error.T @ features + 0.01 * weight, error.sum(axis=0) + 0.01 * bias]
        momenta = [0.9 * momentum + gradient for momentum, gradient in zip(momenta, gradients, strict=True)]
        steps = [gradient + 0.9 * momentum for gradient, momentum in zip(gradients, momenta, strict=True)]
        weight, bias = weight - 0.4 * steps[0], bias - 0.4 * steps[1]
    final = store.latest().tensors
    np.testing.assert_allclose(final["heads.last.weight"].numpy(), weight, atol=1e-5)
    np.testing.assert_allclose(final["heads.last.bias"].numpy(), bias, atol=1e-5)


def test_scores_equal_scikit_learns(tmp_path):
    images = imagenet(published_layouts.imagenet(tmp_path, train=1, val=4, classes=CLASSES), "val")
    classifier = Classifier(untrained(), LAST, 7, 3)
    found = score(classifier, images, 32, Place(), 2)
    views = np.stack([central(32)(read(images.root / path)) for path in images.paths])
    with torch.inference_mode():
        logits = classifier.eval()(colours(torch.from_numpy(views)))["last"].numpy()
    assert 0 < found["top1 last"] <= found["top5 last"] < 1
    for k in (1, 5):
        expected = top_k_accuracy_score(images.labels, logits, k=k, labels=range(7))
        assert found[f"top{k} last"] == pytest.approx(expected)


def test_features_that_tell_nothing_score_at_chance_and_those_that_tell_all_score_one(splits):
    blind = untrained()
    with torch.no_grad():
        for parameter in blind.parameters():
            parameter.zero_()
    assert run(splits, LAST, backbone=blind)[-1]["top1 last"] == pytest.approx(1 / 3)
    assert run(splits, replace(LAST, epochs=10, milestones=()), backbone=MeanColour())[-1]["top1 last"] == 1.0


def test_a_frozen_backbone_stays_as_it_is_and_is_not_in_checkpoints(splits):
    backbone, store = untrained(), Memory()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    run(splits, LAST, store, backbone=backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert {name.split(".")[0] for name in store.latest().tensors} == {"heads", "optimizer"}


def test_fine_tuning_changes_weights_and_statistics_and_the_classifier_goes_faster(splits):
    backbone, store = untrained(), Memory()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    run(splits, replace(TUNED, epochs=1, batch=12), store, backbone=backbone)  # one step: the momentum is the gradient
    changed = [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(changed) == len(before)
    tensors = store.latest().tensors
    step = (backbone.conv1.weight.detach() - before["conv1.weight"]).numpy()
    np.testing.assert_allclose(step, -0.01 * tensors["optimizer.backbone.conv1.weight"].numpy(), atol=1e-6)
    head = Classifier(untrained(), TUNED, 3, 0).heads["last"].weight.detach()
    moved = (tensors["heads.last.weight"] - head).numpy()
    np.testing.assert_allclose(
        moved, -0.01 * TUNED.head_rate * tensors["optimizer.heads.last.weight"].numpy(), atol=1e-6
    )


def test_five_classifiers_are_trained_and_scored_at_once(splits):
    train, val = splits
    part = (train.at(np.array([0, 4, 8])), val.at(np.array([0, 3, 6])))
    store = Memory()
    (scores,) = run(part, LAYERED, store)
    assert set(scores) == {"epoch", *(f"top{k} {layer}" for layer in LAYERS for k in (1, 5))}
    tensors = store.latest().tensors
    assert tensors["heads.res2.linear.weight"].shape == (3, 64 * 6 * 6)
    assert not any(name.startswith("heads.res2.norm.weight") for name in tensors)
    assert tensors["heads.res2.norm.num_batches_tracked"] == 1
    alone = Classifier(untrained(), LAYERED, 3, 0)
    stream = SampleStream(0, "evaluation classifier", 3, 3)
    (batch,) = training_batches(part[0], LAYERED, stream, [Share(0)], 1)
    loss = torch.nn.functional.cross_entropy(alone.train()(training_input(batch, HERE))["res4"], batch.labels)
    (gradient,) = torch.autograd.grad(loss, alone.heads["res4"].linear.weight)
    expected = gradient + 1e-4 * alone.heads["res4"].linear.weight.detach()
    torch.testing.assert_close(tensors["optimizer.heads.res4.linear.weight"], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("recipe", [LAST, TUNED])
def test_a_resumed_training_ends_like_an_uninterrupted_one(splits, recipe):
    whole, parts = Memory(), Memory()
    history = run(splits, recipe, whole)

    def kill(step, _total):
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        run(splits, recipe, parts, on_step=kill, seconds=0)
    assert parts.latest().step == 3
    assert run(splits, recipe, parts) == history
    assert whole.latest().step == parts.latest().step == recipe.epochs * 2
    for name, tensor in whole.latest().tensors.items():
        assert torch.equal(tensor, parts.latest().tensors[name])


def test_scores_come_after_every_so_many_epochs_and_at_the_end(splits):
    history = run(splits, replace(LAST, epochs=5, score_every=2))
    assert [entry["epoch"] for entry in history] == [2, 4, 5]


def test_a_checkpoint_of_another_training_is_refused(splits):
    store = Memory()
    run(splits, replace(LAST, epochs=1), store)
    with pytest.raises(ValueError, match="another training"):
        run(splits, replace(TUNED, epochs=1), store)


def test_splits_with_other_classes_are_refused(splits, tmp_path):
    other = imagenet(published_layouts.imagenet(tmp_path, train=1, val=1, classes=CLASSES), "val")
    with pytest.raises(ValueError, match="3 classes"):
        run((splits[0], other), LAST)


def test_a_loss_that_is_not_finite_ends_the_training(splits):
    backbone = untrained()
    with torch.no_grad():
        backbone.conv1.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        run(splits, LAST, backbone=backbone)


def test_a_file_that_is_no_image_is_told_by_its_path(tmp_path):
    root = published_layouts.imagenet(tmp_path, train=2, val=1)
    broken = root / "train/n01440764/n01440764_100.JPEG"
    broken.write_bytes(b"\xff\xd8\xff not really")
    with pytest.raises(ValueError, match=r"n01440764_100\.JPEG cannot be read"):
        run((imagenet(root, "train"), imagenet(root, "val")), replace(LAST, epochs=1))
