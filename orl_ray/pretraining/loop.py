"""The training loop of both stages, in one process or several, from any checkpoint on (specification 1 and 3)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import torch
from torch import Tensor

from orl_ray import config
from orl_ray.pretraining.augmentation import Parameters, augment
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
from orl_ray.pretraining.prefetch import Batch, view_batches
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.schedules import Schedule
from orl_ray.pretraining.state import TrainingState
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.views import ViewMaker

_LOGGED_STEPS = 200

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the completed steps, the steps in all, and what was measured (empty for a step that is not logged)."""


def train(
    settings: config.Pretraining,
    encoder: config.Encoder,
    stage: str,
    seed: int,
    training_set: TrainingSet,
    checkpoints: CheckpointStore,
    place: Place,
    on_step: OnStep,
    checkpoint_seconds: float,
    loader_threads: int,
    backbone: Mapping[str, Tensor] | None = None,
    loader_processes: int = 0,
) -> dict[str, Tensor]:
    """Train an encoder, from the latest checkpoint on if there is one.

    The result does not depend on where a training was interrupted. On a GPU the networks compute in bfloat16.

    Args:
        settings: of image-level pre-training, or ``config.ObjectLevel`` of object-level pre-training.
        encoder: architecture and widths.
        stage: ``image_level`` or ``object_level``; it keys the draws and the initial weights.
        seed: the run's seed.
        training_set: with RoIs and pairs for object-level pre-training.
        checkpoints: read at the start and written to by the process of rank 0, now and then and at the end.
        place: where this process runs.
        on_step: called on every process after every step.
        checkpoint_seconds: shortest time between two checkpoints, but for the last one.
        loader_threads: threads of this process that decode and cut views.
        backbone: weights that the backbone starts from (``init_from``), by torchvision's names; None draws them.
        loader_processes: processes that do so instead; 0 takes the threads.

    Returns:
        The tensors of the final checkpoint.

    Raises:
        ValueError: the settings, the training set and the checkpoint do not fit each other.
        FloatingPointError: the loss or a weight is not finite.
    """
    weights = term_weights(settings)
    _check_content(training_set, weights)
    if settings.batch_size % place.size:  # as nobody wants shares that differ, the rest of the code need not care
        raise ValueError(f"the batch of {settings.batch_size} does not divide by {place.size} training processes")
    stream = SampleStream(
        seed, stage, len(training_set), settings.batch_size, settings.last_batch, settings.shuffle_window
    )
    schedule = Schedule.of(settings, stream)
    state = TrainingState(settings, encoder, tuple(weights), seed, stage, place, len(training_set), backbone)
    _resume(state, checkpoints, schedule)
    maker = _view_maker(settings, training_set, seed, stage, tuple(weights))
    batches = view_batches(
        maker,
        stream,
        (Share(step, place.rank, place.size) for step in range(state.step, schedule.total)),
        threads=loader_threads,
        processes=loader_processes,
        pinned=place.device.type == "cuda",
    )
    saved = time.monotonic()
    with closing(batches):
        for entry in _steps(state, schedule, weights, batches, stream, place):
            if place.rank == 0 and state.step < schedule.total and time.monotonic() - saved >= checkpoint_seconds:
                checkpoints.save(state.checkpoint())
                saved = time.monotonic()
            on_step(state.step, schedule.total, entry)
    return _finish(state, checkpoints, place)


def _view_maker(
    settings: config.Pretraining, training_set: TrainingSet, seed: int, stage: str, terms: tuple[str, ...]
) -> ViewMaker:
    patch_size = settings.patch_size if isinstance(settings, config.ObjectLevel) else 0
    return ViewMaker(
        training_set,
        seed,
        stage,
        terms,
        settings.view_size,
        patch_size,
        settings.augmentation,
        settings.smallest_crop,
        settings.decode_margin,
        settings.decode_on_gpu,
    )


def _finish(state: TrainingState, checkpoints: CheckpointStore, place: Place) -> dict[str, Tensor]:
    final = state.checkpoint()
    if place.rank == 0:
        checkpoints.save(final)
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


def _steps(
    state: TrainingState,
    schedule: Schedule,
    weights: dict[str, float],
    batches: Iterator[Batch],
    stream: SampleStream,
    place: Place,
) -> Iterator[dict[str, float]]:
    """Do one training step a batch and yield what was measured; nothing for a step that is not logged."""
    online = place.parallel(state.network.online)
    every = max(1, schedule.total // _LOGGED_STEPS)
    clock = _Clock(stream.batch_size)
    while (batch := clock.next(batches)) is not None:
        rate, momentum = schedule.learning_rate(state.step), schedule.ema_momentum(state.step)
        views = _augmented(batch, place.device)
        sample_weights = {term: factors.to(place.device) for term, factors in batch.sample_weights.items()}
        with torch.autocast(place.device.type, torch.bfloat16, enabled=place.device.type == "cuda"):
            losses, projections = state.network.losses(online, views, sample_weights)
        own = len(next(iter(views.values()))[0])
        factor = place.size * own / stream.count(state.step)
        losses = {term: factor * loss for term, loss in losses.items()}
        loss = torch.stack([weights[term] * losses[term] for term in losses]).sum()
        _optimise(state, loss, rate, momentum)
        entry: dict[str, float] = {}
        if state.step % every == 0 or state.step == schedule.total:
            entry = {"step": state.step, "epoch": stream.epoch(state.step)}
            entry |= _measurements({"loss": loss} | losses, factor * feature_moments(projections), place)
            entry |= {"lr": rate, "ema": momentum} | clock.read()
            state.history.append(entry)
            if not math.isfinite(entry["loss"]):
                raise FloatingPointError(f"the loss of step {state.step} is {entry['loss']}: lower the learning rate")
        yield entry


def _augmented(batch: Batch, device: torch.device) -> Views:
    """Move the views of a batch to the device and augment them there."""

    def view(images: Tensor, parameters: Parameters) -> Tensor:
        return augment(images, parameters).contiguous(memory_format=torch.channels_last)

    return {
        term: (view(images[0], batch.parameters[term][0]), view(images[1], batch.parameters[term][1]))
        for term, images in batch.images_on(device).items()
    }


def _measurements(losses: dict[str, Tensor], moments: Tensor, place: Place) -> dict[str, float]:
    """Return the losses and the spread of the projections, over all processes' samples."""
    values = place.mean(torch.stack(list(losses.values())).detach()).tolist()
    names = [name if name == "loss" else f"loss_{name}" for name in losses]
    spread = feature_std(place.mean(moments))
    return dict(zip(names, values, strict=True)) | {"feature_std": spread.item()}


def _optimise(state: TrainingState, loss: Tensor, rate: float, momentum: float) -> None:
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
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
        self._started, self._waited, self._batches = time.perf_counter(), 0.0, 0

    def next(self, batches: Iterator[Batch]) -> Batch | None:
        asked = time.perf_counter()
        batch = next(batches, None)
        self._waited += time.perf_counter() - asked
        self._batches += 1
        return batch

    def read(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self._started
        readings = {
            "images_per_second": self._batches * self._batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._restart()
        return readings
