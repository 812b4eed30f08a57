"""The supervised ceiling: the backbone trained on image labels, with BYOL's samples, views and schedule."""

from collections.abc import Iterator
from contextlib import closing
from time import monotonic

import torch
from torch import Tensor, nn
from torch.nn import functional

from orl_ray import config
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.pretraining.augmentation import augment
from orl_ray.pretraining.checkpoints import Checkpoint, CheckpointStore
from orl_ray.pretraining.loop import OnStep
from orl_ray.pretraining.objectives import GLOBAL
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import SampleStream, Share
from orl_ray.pretraining.schedules import Schedule
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.views import ViewMaker

STAGE = "supervised"
_MOMENTUM = "momentum_buffer"


def train_supervised(
    settings: config.Pretraining,
    encoder: config.Encoder,
    seed: int,
    training_set: TrainingSet,
    present: Tensor,
    device: torch.device,
    checkpoints: CheckpointStore,
    on_step: OnStep,
    checkpoint_seconds: float,
) -> dict[str, Tensor]:
    """Train a backbone and a linear classifier by the binary cross-entropy of every class, from the latest checkpoint.

    Args:
        settings: BYOL's; its EMA plays no part.
        encoder: names the backbone.
        seed: of the draws and the first weights; the backbone's first weights are BYOL's.
        training_set: the images.
        present: (N, C) float, 1 where the image at a position shows a class.
        device: where it computes; on a GPU in bfloat16, as the others.
        checkpoints: read at the start, written to now and then and at the end.
        on_step: called after every step.
        checkpoint_seconds: shortest time between two checkpoints, but for the last one.

    Returns:
        The tensors of the final checkpoint: ``online.backbone.*``, ``classifier.*`` and ``optimizer.*``.
    """
    stream = SampleStream(seed, STAGE, len(training_set), settings.batch_size)
    schedule = Schedule.of(settings, stream)
    state = _State(settings, encoder, seed, present.shape[1], device)
    if (latest := checkpoints.latest()) is not None:
        state.restore(latest)
    maker = ViewMaker(training_set, seed, STAGE, (GLOBAL,), settings.view_size)
    shares = [Share(step) for step in range(state.step, schedule.total)]
    saved = monotonic()
    with closing(view_batches(maker, stream, shares, threads=1)) as batches:
        for batch in batches:
            positions = torch.cat([torch.from_numpy(part.positions) for part in stream.batch(batch.step)])
            views = zip(batch.images_on(device)[GLOBAL], batch.parameters[GLOBAL], strict=True)
            augmented = [augment(images, parameters) for images, parameters in views]
            loss = state.learn(augmented, present[positions].to(device), schedule.learning_rate(batch.step))
            on_step(state.step, schedule.total, {"loss": loss})
            if state.step < schedule.total and monotonic() - saved >= checkpoint_seconds:
                checkpoints.save(state.checkpoint())
                saved = monotonic()
    final = state.checkpoint()
    checkpoints.save(final)
    return final.tensors


class _State:
    """Everything that the training changes."""

    def __init__(
        self, settings: config.Pretraining, encoder: config.Encoder, seed: int, classes: int, device: torch.device
    ) -> None:
        self.backbone = build_backbone(encoder.backbone)
        self.classifier = nn.Linear(self.backbone.features, classes)
        initialise(self.backbone, seed, "image_level", "backbone")
        initialise(self.classifier, seed, STAGE, "classifier")
        self._network = nn.Sequential(self.backbone, self.classifier)
        self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(
            self._network.parameters(), lr=0.0, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        for parameter in self._network.parameters():
            self._optimizer.state[parameter][_MOMENTUM] = torch.zeros_like(parameter)
        self.step = 0
        self._history: list[dict[str, float]] = []

    def learn(self, views: list[Tensor], present: Tensor, rate: float) -> float:
        """Do one step on two views of a batch, which are batches of their own for batch norm; return the loss."""
        device = present.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            scores = [self._network(view.contiguous(memory_format=torch.channels_last)) for view in views]
        losses = [functional.binary_cross_entropy_with_logits(each.float(), present) for each in scores]
        loss = torch.stack(losses).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self.step += 1
        self._history.append({"step": self.step, "loss": loss.item()})
        return loss.item()

    def checkpoint(self) -> Checkpoint:
        """Copy the state."""
        tensors = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self._named()
        }
        return Checkpoint(self.step, tensors, list(self._history))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint."""
        with torch.no_grad():
            for name, tensor in self._named():
                tensor.copy_(checkpoint.tensors[name])
        self.step, self._history = checkpoint.step, list(checkpoint.history)

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, module in (("online.backbone.", self.backbone), ("classifier.", self.classifier)):
            for name, tensor in module.state_dict().items():
                yield prefix + name, tensor
            for name, parameter in module.named_parameters():
                yield f"optimizer.{prefix}{name}", self._optimizer.state[parameter][_MOMENTUM]
