"""The training loop of both stages, in one process or several, from any checkpoint on (specification 1 and 3)."""

import time
from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor

from orl_ray import config
from orl_ray.pretraining.augmentation import augment
from orl_ray.pretraining.checkpoints import CheckpointStore
from orl_ray.pretraining.objectives import feature_std, symmetrised_losses, term_weights
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.schedules import ema_momentum, learning_rate, scaled_ema_base, scaled_learning_rate
from orl_ray.pretraining.state import TrainingState
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.views import ViewBatch, ViewMaker

_LOGGED_STEPS = 200

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the completed steps, all steps, and the measurements of a logged step (empty for others)."""


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
) -> dict[str, Tensor]:
    """Train an encoder, from the latest checkpoint on if there is one.

    The same arguments give the same result wherever the training was interrupted. On a GPU, networks compute in bfloat16.

    Args:
        settings: of image-level or object-level (``config.ObjectLevel``) pre-training.
        encoder: architecture and widths.
        stage: ``image_level`` or ``object_level``; it keys the draws.
        seed: the run's seed.
        training_set: with RoIs and pairs for object-level pre-training.
        checkpoints: read on every start; the process of rank 0 saves to it, now and then and at the end.
        place: where this process runs.
        on_step: called on every process after every step.
        checkpoint_seconds: shortest time between two checkpoints, but for the last one.
        loader_threads: threads that decode and cut views, in this process.

    Returns:
        The tensors of the last checkpoint.

    Raises:
        ValueError: the settings, the training set and the checkpoint do not fit each other.
        FloatingPointError: the loss is not finite.
    """
    weights = term_weights(settings)
    stream = SampleStream(seed, stage, len(training_set), settings.batch_size)
    total = stream.total_steps(settings.epochs)
    state = TrainingState(settings, encoder, tuple(weights), seed, stage, place)
    state.resume(checkpoints)
    if state.step > total:
        raise ValueError(f"the checkpoint has {state.step} steps, more than the {total} of these settings")
    step = _Step(settings, weights, state, place, total)
    meter = _Meter(settings.batch_size, len(training_set), total)
    steps = range(state.step, total)
    maker = _view_maker(settings, stage, seed, training_set, tuple(weights))
    saved = time.monotonic()
    batches = view_batches(
        maker,
        stream,
        steps,
        rank=place.rank,
        size=place.size,
        threads=loader_threads,
        pinned=place.device.type == "cuda",
    )
    with closing(batches):
        for _ in steps:
            with meter.waiting():
                batch = next(batches)
            ...
    return {}
