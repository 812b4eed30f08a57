"""The loop that trains classifiers and scores them, in one process or several, from any checkpoint on."""

import math
import time
from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor

from orl_ray.embeddings.vectors import colours
from orl_ray.encoders.backbones import Backbone
from orl_ray.evaluation.classifier import Classifier
from orl_ray.evaluation.image_views import central, views
from orl_ray.evaluation.recipes import Recipe
from orl_ray.evaluation.single_label_layouts import LabelledImages
from orl_ray.evaluation.training_views import STAGE, TrainingBatch, training_batches, training_input
from orl_ray.pretraining.checkpoints import Checkpoint, CheckpointStore
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.sampling import SampleStream, Share

TOP = 5
_MOMENTUM = "momentum_buffer"
_CHECKED_STEPS = 50
_SCORED_BATCH = 64

Scores = dict[str, float]
"""``top1 <classifier>`` and ``top5 <classifier>`` -> share of the images, with ``epoch``."""
OnStep = Callable[[int, int], None]
"""Called with the completed steps and the steps in all."""


def train_classifier(
    backbone: Backbone,
    recipe: Recipe,
    train: LabelledImages,
    test: LabelledImages,
    *,
    seed: int,
    checkpoints: CheckpointStore,
    place: Place,
    on_step: OnStep,
    checkpoint_seconds: float,
    threads: int,
) -> list[Scores]:
    """Train classifiers on a backbone and score them now and then, from the latest checkpoint on if there is one.

    The result does not depend on where a training was interrupted.

    Args:
        backbone: with the weights that are to be judged; trained in place where the recipe trains it.
        recipe: every constant.
        train: what is trained on.
        test: what is scored.
        seed: draws the initial weights, the order of the images and their views.
        checkpoints: of this training alone; read at the start, written by rank 0 now and then and after each scoring.
        place: where this process runs.
        on_step: called on every process after every step.
        checkpoint_seconds: shortest time between two checkpoints, but for those after a scoring.
        threads: threads of this process that decode and cut views.

    Returns:
        The scores of each scoring, in order; the last is that of the finished training.

    Raises:
        ValueError: train and test have other classes, an image cannot be read, or a checkpoint does not fit.
        FloatingPointError: the loss is not finite.
    """
    if train.classes != test.classes:
        raise ValueError(f"trained on {len(train.classes)} classes, scored on {len(test.classes)} others")
    if recipe.batch % place.size:
        raise ValueError(f"the batch of {recipe.batch} does not divide by {place.size} training processes")
    stream = SampleStream(seed, f"evaluation {STAGE}", len(train), recipe.batch)
    total = stream.total_steps(recipe.epochs)
    state = _State(Classifier(backbone, recipe, len(train.classes), seed), recipe, place)
    state.resume(checkpoints, total)
    scored_at = {stream.total_steps(epoch) for epoch in range(recipe.score_every, recipe.epochs, recipe.score_every)}
    network = place.parallel(state.classifier)
    shares = [Share(step, place.rank, place.size) for step in range(state.step, total)]
    saved = time.monotonic()
    with closing(training_batches(train, recipe, stream, shares, threads)) as batches:
        for batch in batches:
            _step(state, network, batch, recipe.rate(state.step * recipe.batch / len(train)))
            if state.step in scored_at or state.step == total:
                scores = score(state.classifier, test, recipe.side, place, threads)
                state.history.append({"epoch": state.step * recipe.batch / len(train), **scores})
            due = time.monotonic() - saved >= checkpoint_seconds or state.step in scored_at or state.step == total
            if due and place.rank == 0:
                checkpoints.save(state.checkpoint())
                saved = time.monotonic()
            on_step(state.step, total)
    return state.history


def score(classifier: Classifier, images: LabelledImages, side: int, place: Place, threads: int) -> Scores:
    """Classify the central views of images.

    Args:
        classifier: in any mode; returned to training.
        images: what is scored, shared out over the processes.
        side: side of a view.
        place: where this process runs.
        threads: threads that decode.

    Returns:
        Share of the images whose label comes first (``top1 …``) and among the first five (``top5 …``), by classifier.
    """
    classifier.eval()
    mine = list(range(place.rank, len(images), place.size))
    crops = views([images.root / images.paths[position] for position in mine], central(side), threads)
    hits = torch.zeros(len(classifier.heads), 2, dtype=torch.float64, device=place.device)
    with closing(crops):
        for start in range(0, len(mine), _SCORED_BATCH):
            positions = mine[start : start + _SCORED_BATCH]
            batch = torch.stack([torch.from_numpy(next(crops)) for _ in positions]).to(place.device)
            labels = torch.from_numpy(images.labels[positions]).to(place.device)
            with torch.inference_mode():
                logits = classifier(colours(batch))
            hits += torch.stack([_hits(logits[name], labels) for name in classifier.heads])
    classifier.train()
    shares = (place.mean(hits) * place.size / len(images)).tolist()
    names = [f"top{k} {name}" for name in classifier.heads for k in (1, TOP)]
    return dict(zip(names, [share for row in shares for share in row], strict=True))


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Count (2,) how often the label is first, and how often among the first five."""
    ranked = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([ranked[:, 0].sum(), ranked.sum()]).double()


def _step(state: "_State", network: torch.nn.Module, batch: TrainingBatch, rate: float) -> None:
    device = state.place.device
    labels = batch.labels.to(device)
    logits: dict[str, Tensor] = network(training_input(batch, device))
    loss = torch.stack([torch.nn.functional.cross_entropy(values, labels) for values in logits.values()]).sum()
    if state.step % _CHECKED_STEPS == 0 and not math.isfinite(loss.item()):
        raise FloatingPointError(
            f"the loss of step {state.step} is {loss.item()}: the recipe does not suit the weights"
        )
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["times"]
    state.optimizer.step()
    state.step += 1


class _State:
    """Everything that a training changes: weights, momenta, scores so far, steps."""

    def __init__(self, classifier: Classifier, recipe: Recipe, place: Place) -> None:
        self.place = place
        self.classifier = classifier
        place.synchronise_batch_norm(classifier)
        classifier.to(place.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        groups: list[dict[str, object]] = [{"params": list(classifier.heads.parameters()), "times": recipe.head_rate}]
        if recipe.trains_backbone:
            groups.append({"params": list(classifier.backbone.parameters()), "times": 1.0})
        self.optimizer = torch.optim.SGD(
            groups, lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
        )
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:  # SGD's first step from zeros is its first step from nothing
                self.optimizer.state[parameter][_MOMENTUM] = torch.zeros_like(parameter)
        self.step = 0
        self.history: list[Scores] = []

    def checkpoint(self) -> Checkpoint:
        tensors = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self._named().items()
        }
        return Checkpoint(self.step, tensors, list(self.history))

    def resume(self, checkpoints: CheckpointStore, total: int) -> None:
        """Take over the latest checkpoint: every process reads it, so that all have the scores."""
        latest = checkpoints.latest()
        step = torch.tensor(float(latest.step if latest else 0), device=self.place.device)
        if self.place.mean((step - self.place.from_first(step.clone())).abs()) > 0:  # the same on all: none waits
            raise ValueError("processes see different checkpoints: their folder must be one that all of them share")
        if latest is None:
            return
        own = self._named()
        shapes = {name: tensor.shape for name, tensor in own.items()}
        if {name: tensor.shape for name, tensor in latest.tensors.items()} != shapes or latest.step > total:
            raise ValueError("the checkpoint is of another training: take another folder")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(latest.tensors[name])
        self.step, self.history = latest.step, list(latest.history)

    def _named(self) -> dict[str, Tensor]:
        momenta = {
            f"optimizer.{name}": self.optimizer.state[parameter][_MOMENTUM]
            for name, parameter in self.classifier.named_parameters()
            if parameter.requires_grad
        }
        return {**dict(self.classifier.trained_state()), **momenta}
