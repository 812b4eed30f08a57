"""The training loop of both stages, in one process or several, from any checkpoint on (specification 1 and 3)."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orl_ray import config
from orl_ray.pretraining.augmentation import Parameters, augment
from orl_ray.pretraining.checkpoint_writer import CheckpointWriter
from orl_ray.pretraining.checkpoints import CheckpointStore
from orl_ray.pretraining.objectives import (
    GLOBAL,
    INTER,
    Views,
    feature_moments,
    feature_std,
    term_weights,
)
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.schedules import Schedule
from orl_ray.pretraining.state import TrainingState
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.views import ViewBatch, ViewMaker

_LOGGED_STEPS = 200

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the completed steps, the steps in all, and what was measured (empty for a step that is not logged)."""


def train(
    settings: config.ImageLevel,
    encoder: config.Encoder,
    stage: str,
    seed: int,
    training_set: TrainingSet,
    checkpoints: CheckpointStore,
    place: Place,
    on_step: OnStep,
    checkpoint_seconds: float,
    loader_threads: int,
    *,
    checkpoint_epochs: float = 0.0,
    compiled: bool = False,
) -> dict[str, Tensor]:
    """Train an encoder, from the latest checkpoint on if there is one.

    The result does not depend on where a training was interrupted, nor, but for rounding, on the number of processes,
    which may change then: each step takes the same samples, in passes of ``settings.micro_batch`` that all processes
    share, and batch norm takes its statistics over a pass. On a GPU the networks compute in bfloat16.

    Args:
        settings: of image-level pre-training, or ``config.ObjectLevel`` of object-level pre-training.
        encoder: architecture and widths.
        stage: ``image_level`` or ``object_level``; it keys the draws and the initial weights.
        seed: the run's seed.
        training_set: with RoIs and pairs for object-level pre-training.
        checkpoints: read at the start and written to by the process of rank 0, now and then and at the end.
        place: where this process runs.
        on_step: called on every process after every step.
        checkpoint_seconds: shortest time between two checkpoints, but for the last one and those that are kept.
        loader_threads: threads of this process that decode and cut views.
        checkpoint_epochs: epochs between two checkpoints that are kept; 0 for none.
        compiled: whether ``torch.compile`` makes the networks' kernels; they round differently.

    Returns:
        The tensors of the final checkpoint.

    Raises:
        ValueError: the settings, the training set and the checkpoint do not fit each other.
        FloatingPointError: the loss or a weight is not finite.
    """
    weights = term_weights(settings)
    _check_content(training_set, weights)
    stream = SampleStream(seed, stage, len(training_set), settings.batch_size)
    schedule = Schedule.of(settings, len(training_set), stream.total_steps(settings.epochs))
    state = TrainingState(settings, encoder, tuple(weights), seed, stage, place)
    _resume(state, checkpoints, schedule)
    if compiled:
        state.compile()
    patch_size = settings.patch_size if isinstance(settings, config.ObjectLevel) else 0
    maker = ViewMaker(training_set, seed, stage, tuple(weights), settings.view_size, patch_size)
    passes = Passes(stream, settings.micro_batch or settings.batch_size, place)
    batches = view_batches(
        maker,
        stream,
        (share for step in range(state.step, schedule.total) for share in passes.of_step(step)),
        threads=loader_threads,
        pinned=place.device.type == "cuda",
    )
    kept_steps = checkpoint_epochs * len(training_set) / settings.batch_size
    with closing(batches), CheckpointWriter(checkpoints, checkpoint_seconds, kept_steps) as writer:
        for entry in training_steps(state, schedule, weights, batches, passes):
            if place.rank == 0 and state.step < schedule.total:
                writer.after_step(state)
            on_step(state.step, schedule.total, entry)
        final = state.checkpoint(kept=writer.keeps(state.step))
        if place.rank == 0:
            writer.save(final)
    return final.tensors


def _resume(state: TrainingState, checkpoints: CheckpointStore, schedule: Schedule) -> None:
    state.resume(checkpoints)
    if state.step > schedule.total:
        raise ValueError(f"the checkpoint has {state.step} steps, these settings only {schedule.total}")


def _check_content(training_set: TrainingSet, weights: dict[str, float]) -> None:
    counts = training_set.counts()
    if set(weights) - {GLOBAL} and not counts["rois"]:
        raise ValueError(f"{training_set.folder} has no RoIs: object-level training needs an object-level training set")
    if INTER in weights and not counts["pairs"]:
        raise ValueError(
            f"{training_set.folder} has no pairs: none was mined, or none lies between mining.min_similarity "
            "and mining.max_similarity; change those, or set object_level.inter_weight to zero"
        )


@dataclass(frozen=True, slots=True)
class Passes:
    """How the samples of a step go through the networks: in passes that all processes share.

    Args:
        stream: says which samples a step takes.
        micro_batch: samples a pass, over all processes.
        place: where this process runs.

    Raises:
        ValueError: a process would have no sample in a pass.
    """

    stream: SampleStream
    micro_batch: int
    place: Place

    def __post_init__(self) -> None:
        if self.micro_batch < self.place.size:
            raise ValueError(f"{self.place.size} training processes cannot share {self.micro_batch} images a pass")

    def of_step(self, step: int) -> list[Share]:
        """Return this process' share of each pass of a step; shares may differ by one sample."""
        count, size = math.ceil(self.stream.batch_size / self.micro_batch), self.place.size
        return [Share(step, number * size + self.place.rank, count * size) for number in range(count)]

    def factor(self, batch: ViewBatch) -> float:
        """Return what the mean over a share counts for, where shares are summed over passes and averaged over ranks."""
        own = len(next(iter(batch.images.values()))[0])
        return self.place.size * own / self.stream.batch_size


def training_steps(
    state: TrainingState, schedule: Schedule, weights: dict[str, float], batches: Iterator[ViewBatch], passes: Passes
) -> Iterator[dict[str, float]]:
    """Do the training's steps and yield what was measured; nothing for a step that is not logged."""
    stream, place = passes.stream, passes.place
    online = place.parallel(state.network.online)
    every = max(1, schedule.total // _LOGGED_STEPS)
    clock = _Clock(stream.batch_size)
    while state.step < schedule.total:
        rate, momentum = schedule.learning_rate(state.step), schedule.ema_momentum(state.step)
        state.optimizer.zero_grad()
        shares = passes.of_step(state.step)
        measured = []
        for share in shares:
            with place.gathering(online) if share is not shares[-1] else nullcontext():
                measured.append(_pass(state, online, clock.next(batches), weights, passes))
        _update(state, rate, momentum)
        clock.count_step()
        entry: dict[str, float] = {}
        if state.step % every == 0 or state.step == schedule.total:
            entry = {"step": state.step, "epoch": state.step * stream.batch_size / stream.images}
            entry |= _measurements(measured, place)
            entry |= {"lr": rate, "ema": momentum, "workers": place.size} | clock.read()
            state.history.append(entry)
            if not math.isfinite(entry["loss"]):
                raise FloatingPointError(f"the loss of step {state.step} is {entry['loss']}: lower the learning rate")
        yield entry


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one process saw in one pass.

    Attributes:
        losses: scalars by name, ``loss`` among them, already times the factor.
        projections: as ``OnlineTarget.losses`` returns them.
        factor: what the mean over these samples counts for.
    """

    losses: dict[str, Tensor]
    projections: Tensor
    factor: float


def _pass(
    state: TrainingState, online: nn.Module, batch: ViewBatch, weights: dict[str, float], passes: Passes
) -> _Measured:
    """Forward and backward this process' share of a pass; the gradients add to those that are there."""
    device, factor = passes.place.device, passes.factor(batch)
    views = _augmented(batch, device)
    sample_weights = {term: factors.to(device) for term, factors in batch.sample_weights.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        losses, projections = state.network.losses(online, views, sample_weights)
    losses = {term: loss * factor for term, loss in losses.items()}
    loss = torch.stack([weights[term] * losses[term] for term in losses]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    named = {"loss": loss} | {f"loss_{term}": value for term, value in losses.items()}
    return _Measured({name: value.detach() for name, value in named.items()}, projections, factor)


def _augmented(batch: ViewBatch, device: torch.device) -> Views:
    """Move the views of a batch to the device and augment them there."""

    def view(images: Tensor, parameters: Parameters) -> Tensor:
        augmented = augment(images.to(device, non_blocking=True), parameters)
        return augmented.contiguous(memory_format=torch.channels_last)

    return {
        term: (view(images[0], batch.parameters[term][0]), view(images[1], batch.parameters[term][1]))
        for term, images in batch.images.items()
    }


def _measurements(seen: list[_Measured], place: Place) -> dict[str, float]:
    """Return the losses and the spread of the projections, over all samples of a step."""
    names = list(seen[0].losses)
    losses = torch.stack([torch.stack([each.losses[name] for name in names]) for each in seen]).sum(dim=0)
    moments = torch.stack([feature_moments(each.projections) * each.factor for each in seen]).sum(dim=0)
    values = place.mean(losses).tolist()
    return dict(zip(names, values, strict=True)) | {"feature_std": feature_std(place.mean(moments)).item()}


def _update(state: TrainingState, rate: float, momentum: float) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.network.after_step(momentum)
    state.step += 1


class _Clock:
    """Measures the throughput and the share of time spent waiting for data, between readings."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._restart()

    def _restart(self) -> None:
        self._started, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def next(self, batches: Iterator[ViewBatch]) -> ViewBatch:
        asked = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - asked
        return batch

    def count_step(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self._started
        readings = {
            "images_per_second": self._steps * self._batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._restart()
        return readings
