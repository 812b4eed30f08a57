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
from orl_ray.pretraining.collapse import signs
from orl_ray.pretraining.measurements import FeatureWindow
from orl_ray.pretraining.objectives import GLOBAL, INTER, Views, term_weights
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.probe import Probe
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.schedules import Schedule
from orl_ray.pretraining.state import TrainingState
from orl_ray.pretraining.step_clock import StepClock
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
    probe: Probe | None = None,
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
        probe: scores the backbone now and then, on the process of rank 0; it changes nothing.

    Returns:
        The tensors of the final checkpoint.

    Raises:
        ValueError: the settings, the training set and the checkpoint do not fit each other.
        FloatingPointError: the loss or a weight is not finite.
    """
    weights = term_weights(settings)
    _check_content(training_set, weights)
    stream = SampleStream(seed, stage, len(training_set), settings.batch_size, place.size)
    schedule = Schedule.of(settings, len(training_set), stream.total_steps(settings.epochs))
    state = TrainingState(settings, encoder, tuple(weights), seed, stage, place)
    _resume(state, checkpoints, schedule)
    patch_size = settings.patch_size if isinstance(settings, config.ObjectLevel) else 0
    maker = ViewMaker(training_set, seed, stage, tuple(weights), settings.view_size, patch_size)
    steps, on_gpu = range(state.step, schedule.total), place.device.type == "cuda"
    batches = view_batches(maker, stream, steps, rank=place.rank, threads=loader_threads, pinned=on_gpu)
    clock = StepClock(place.device, stream.batch_size)
    saved = time.monotonic()
    with closing(batches):
        for entry in _steps(state, schedule, weights, batches, stream, place, clock, probe):
            if place.rank == 0 and state.step < schedule.total and time.monotonic() - saved >= checkpoint_seconds:
                with clock.part("checkpoint"):
                    checkpoints.save(state.checkpoint())
                saved = time.monotonic()
            on_step(state.step, schedule.total, entry)
    return _finish(state, checkpoints, place)


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
    batches: Iterator[ViewBatch],
    stream: SampleStream,
    place: Place,
    clock: StepClock,
    probe: Probe | None,
) -> Iterator[dict[str, float]]:
    """Do one training step a batch and yield what was measured; nothing for a step that is not logged."""
    online = place.parallel(state.network.online)
    every = max(1, schedule.total // _LOGGED_STEPS)
    window = FeatureWindow(place)
    while (batch := _next(batches, clock)) is not None:
        rate, momentum = schedule.learning_rate(state.step), schedule.ema_momentum(state.step)
        with clock.part("augment"):
            views = _augmented(batch, place.device)
        sample_weights = {term: factors.to(place.device) for term, factors in batch.sample_weights.items()}
        with (
            clock.part("forward"),
            torch.autocast(place.device.type, torch.bfloat16, enabled=place.device.type == "cuda"),
        ):
            losses, features = state.network.losses(online, views, sample_weights)
        window.add(*features)
        loss = torch.stack([weights[term] * losses[term] for term in losses]).sum()
        _optimise(state, loss, rate, momentum, clock)
        entry: dict[str, float] = {}
        if state.step % every == 0 or state.step in (window.fills_at(stream.batch_size), schedule.total):
            entry = {"step": state.step, "epoch": state.step * stream.batch_size / stream.images}
            entry |= _mean_losses({"loss": loss} | losses, place)
            if not math.isfinite(entry["loss"]):
                raise FloatingPointError(f"the loss of step {state.step} is {entry['loss']}: lower the learning rate")
            with clock.part("measure"):
                entry |= window.measure()
                if probe is not None and probe.is_due(state.history, entry, schedule.total):
                    entry |= probe.score(state.network.online.backbone.state_dict())
            entry |= {"lr": rate, "ema": momentum} | clock.read()
            entry |= signs([*state.history, entry], schedule.warmup)
            state.history.append(entry)
        yield entry


def _next(batches: Iterator[ViewBatch], clock: StepClock) -> ViewBatch | None:
    clock.step()
    with clock.part("data"):
        return next(batches, None)


def _augmented(batch: ViewBatch, device: torch.device) -> Views:
    """Move the views of a batch to the device and augment them there."""

    def view(images: Tensor, parameters: Parameters) -> Tensor:
        augmented = augment(images.to(device, non_blocking=True), parameters)
        return augmented.contiguous(memory_format=torch.channels_last)

    return {
        term: (view(images[0], batch.parameters[term][0]), view(images[1], batch.parameters[term][1]))
        for term, images in batch.images.items()
    }


def _mean_losses(losses: Mapping[str, Tensor], place: Place) -> dict[str, float]:
    """Return the losses over all processes' samples."""
    values = place.mean(torch.stack(list(losses.values())).detach()).tolist()
    names = [name if name == "loss" else f"loss_{name}" for name in losses]
    return dict(zip(names, values, strict=True))


def _optimise(state: TrainingState, loss: Tensor, rate: float, momentum: float, clock: StepClock) -> None:
    state.optimizer.zero_grad()
    with clock.part("backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    with clock.part("optimise"):
        state.optimizer.step()
        state.network.after_step(momentum)
    state.step += 1
