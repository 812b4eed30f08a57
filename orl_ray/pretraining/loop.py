"""The training loop of both stages, in one process or several, from any checkpoint on (specification 1 and 3)."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orl_ray import config
from orl_ray.pretraining.augmentation import Parameters, augment
from orl_ray.pretraining.checkpoint_writer import CheckpointWriter
from orl_ray.pretraining.checkpoints import CheckpointStore
from orl_ray.pretraining.collapse import signs
from orl_ray.pretraining.measurements import FeatureWindow
from orl_ray.pretraining.objectives import GLOBAL, INTER, Views, term_weights
from orl_ray.pretraining.passes import Passes
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.prefetch import Batch, view_batches
from orl_ray.pretraining.probe import Probe
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.schedules import Schedule
from orl_ray.pretraining.state import TrainingState
from orl_ray.pretraining.step_clock import StepClock
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.views import ViewMaker

_LOGGED_STEPS = 200

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the completed steps, the steps in all, and what was measured (empty for a step that is not logged)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a training is carried out; but for rounding, nothing here changes its result.

    Attributes:
        checkpoint_seconds: shortest time between two checkpoints, but for the last one and those that are kept.
        checkpoint_epochs: epochs between two checkpoints that are kept; 0 for none.
        loader_threads: threads of this process that decode and cut views.
        loader_processes: processes that do so instead; 0 takes the threads.
        compiled: whether ``torch.compile`` makes the networks' kernels; they round differently.
        probe: scores the backbone now and then, on the process of rank 0.
    """

    checkpoint_seconds: float
    checkpoint_epochs: float = 0.0
    loader_threads: int = 1
    loader_processes: int = 0
    compiled: bool = False
    probe: Probe | None = None


def train(
    settings: config.Pretraining,
    encoder: config.Encoder,
    stage: str,
    seed: int,
    training_set: TrainingSet,
    checkpoints: CheckpointStore,
    place: Place,
    on_step: OnStep,
    running: Running,
    backbone: Mapping[str, Tensor] | None = None,
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
        running: how it is carried out.
        backbone: weights that the backbone starts from (``init_from``), by torchvision's names; None draws them.

    Returns:
        The tensors of the final checkpoint.

    Raises:
        ValueError: the settings, the training set and the checkpoint do not fit each other.
        FloatingPointError: the loss or a weight is not finite.
    """
    weights = term_weights(settings)
    _check_content(training_set, weights)
    images, terms = len(training_set), tuple(weights)
    stream = SampleStream(seed, stage, images, settings.batch_size, settings.last_batch, settings.shuffle_window)
    schedule = Schedule.of(settings, stream)
    state = TrainingState(settings, encoder, terms, seed, stage, place, images, backbone)
    _begin(state, checkpoints, schedule, compiled=running.compiled)
    passes = Passes(stream, settings.micro_batch or settings.batch_size, place)
    clock = StepClock(place.device, settings.batch_size)
    maker = _view_maker(settings, training_set, seed, stage, terms)
    batches = _batches(maker, passes, range(state.step, schedule.total), running)
    kept_steps = stream.steps(running.checkpoint_epochs)
    with closing(batches), CheckpointWriter(checkpoints, running.checkpoint_seconds, kept_steps) as writer:
        for entry in training_steps(state, schedule, weights, batches, passes, clock, running.probe):
            if place.rank == 0 and state.step < schedule.total:
                with clock.part("checkpoint"):
                    writer.after_step(state)
            on_step(state.step, schedule.total, entry)
        return _finish(state, writer, place)


def _finish(state: TrainingState, writer: CheckpointWriter, place: Place) -> dict[str, Tensor]:
    final = state.checkpoint(kept=writer.keeps(state.step))
    if place.rank == 0:
        writer.save(final)
    return final.tensors


def _view_maker(
    settings: config.Pretraining, training_set: TrainingSet, seed: int, stage: str, terms: tuple[str, ...]
) -> ViewMaker:
    return ViewMaker(
        training_set,
        seed,
        stage,
        terms,
        settings.view_size,
        settings.patch_size if isinstance(settings, config.ObjectLevel) else 0,
        settings.augmentation,
        settings.smallest_crop,
        settings.decode_margin,
        settings.decode_on_gpu,
    )


def _batches(maker: ViewMaker, passes: Passes, steps: range, running: Running) -> Generator[Batch]:
    """Make this process' share of each pass of some steps."""
    return view_batches(
        maker,
        passes.stream,
        (share for step in steps for share in passes.of_step(step)),
        threads=running.loader_threads,
        processes=running.loader_processes,
        pinned=passes.place.device.type == "cuda",
    )


def _begin(state: TrainingState, checkpoints: CheckpointStore, schedule: Schedule, *, compiled: bool) -> None:
    if compiled:
        state.compile()
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


def training_steps(
    state: TrainingState,
    schedule: Schedule,
    weights: dict[str, float],
    batches: Iterator[Batch],
    passes: Passes,
    clock: StepClock,
    probe: Probe | None = None,
) -> Iterator[dict[str, float]]:
    """Do the training's steps and yield what was measured; nothing for a step that is not logged.

    Args:
        state: the state, which each step changes.
        schedule: says the rates, and how many steps there are.
        weights: weight of each loss term.
        batches: this process' share of each pass, in order.
        passes: how steps are cut into passes.
        clock: measures the parts of a step.
        probe: scores the backbone now and then; it changes nothing.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    stream, place = passes.stream, passes.place
    online = place.parallel(state.network.online)
    every = max(1, schedule.total // _LOGGED_STEPS)
    window = FeatureWindow(place)
    while state.step < schedule.total:
        rate, momentum = schedule.learning_rate(state.step), schedule.ema_momentum(state.step)
        clock.step()
        losses = _gradients(state, online, batches, weights, passes, clock, window)
        _update(state, rate, momentum, clock)
        entry: dict[str, float] = {}
        if state.step % every == 0 or state.step in (window.fills_at(stream.batch_size), schedule.total):
            entry = {"step": state.step, "epoch": stream.epoch(state.step), **_mean_losses(losses, place)}
            if not math.isfinite(entry["loss"]):
                raise FloatingPointError(f"the loss of step {state.step} is {entry['loss']}: lower the learning rate")
            with clock.part("measure"):
                entry |= window.measure()
                if probe is not None and probe.is_due(state.history, entry, schedule.total):
                    entry |= probe.score(state.network.online.backbone.state_dict())
            entry |= {"lr": rate, "ema": momentum, "workers": place.size} | clock.read()
            entry |= signs([*state.history, entry], schedule.warmup)
            state.history.append(entry)
        yield entry


def _gradients(
    state: TrainingState,
    online: nn.Module,
    batches: Iterator[Batch],
    weights: dict[str, float],
    passes: Passes,
    clock: StepClock,
    window: FeatureWindow,
) -> dict[str, Tensor]:
    """Forward and backward the passes of a step; return this process' share of the losses, ``loss`` among them."""
    place, step = passes.place, state.step
    state.optimizer.zero_grad()
    count = len(passes.of_step(step))
    summed: dict[str, Tensor] = {}
    for number in range(count):
        with clock.part("data"):
            batch = next(batches)
        with clock.part("augment"):
            views = _augmented(batch, place.device)
        factor = passes.factor(step, len(next(iter(views.values()))[0]))
        factors = {term: values.to(place.device) for term, values in batch.sample_weights.items()}
        with place.gathering(online) if number < count - 1 else nullcontext():
            with (
                clock.part("forward"),
                torch.autocast(place.device.type, torch.bfloat16, enabled=place.device.type == "cuda"),
            ):
                terms, features = state.network.losses(online, views, factors)
            window.add(*features)
            losses = {f"loss_{term}": value * factor for term, value in terms.items()}
            loss = torch.stack([weights[term] * losses[f"loss_{term}"] for term in terms]).sum()
            with clock.part("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
        for name, value in ({"loss": loss} | losses).items():
            summed[name] = summed[name] + value.detach() if name in summed else value.detach()
    return summed


def _augmented(batch: Batch, device: torch.device) -> Views:
    """Move the views of a batch to the device and augment them there."""

    def view(images: Tensor, parameters: Parameters) -> Tensor:
        return augment(images, parameters).contiguous(memory_format=torch.channels_last)

    return {
        term: (view(images[0], batch.parameters[term][0]), view(images[1], batch.parameters[term][1]))
        for term, images in batch.images_on(device).items()
    }


def _mean_losses(losses: Mapping[str, Tensor], place: Place) -> dict[str, float]:
    """Return the losses over all processes' samples."""
    values = place.mean(torch.stack(list(losses.values()))).tolist()
    return dict(zip(losses, values, strict=True))


def _update(state: TrainingState, rate: float, momentum: float, clock: StepClock) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    with clock.part("optimise"):
        state.optimizer.step()
        state.network.after_step(momentum)
    state.step += 1
