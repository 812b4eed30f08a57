"""The state of a training: networks, optimiser and step, to tensors by name and back."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from orl_ray import config
from orl_ray.pretraining.checkpoints import Checkpoint, CheckpointStore
from orl_ray.pretraining.networks import build_network
from orl_ray.pretraining.optimisers import build_optimizer, optimizer_tensors, set_step
from orl_ray.pretraining.place import Place


class TrainingState:
    """Everything that a training changes; the rest is a function of the settings and the step.

    Args:
        settings: of the stage.
        encoder: architecture and widths.
        terms: the loss terms in use.
        seed: the run's seed.
        stage: name of the stage.
        place: where this process runs.
        images: number of images that are trained on.
        backbone: weights that the backbone starts from, by torchvision's names; None draws them.

    Attributes:
        network: the method's networks, on the device, channels last.
        optimizer: of the online network.
        step: completed steps.
        history: measurements so far; kept by the process of rank 0.
        workers: as in :class:`~orl_ray.pretraining.checkpoints.Checkpoint`; kept by the process of rank 0.
    """

    def __init__(
        self,
        settings: config.Pretraining,
        encoder: config.Encoder,
        terms: tuple[str, ...],
        seed: int,
        stage: str,
        place: Place,
        images: int,
        backbone: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._place = place
        self.network = build_network(settings, encoder, terms, seed, stage, images, backbone)
        place.synchronise_batch_norm(self.network)
        self.network.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(settings, self.network.online)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.workers: tuple[tuple[int, int], ...] = ()

    def checkpoint(self, *, kept: bool = False) -> Checkpoint:
        """Copy the state to the CPU.

        Args:
            kept: whether the checkpoint stays beside the latest ones.

        Raises:
            FloatingPointError: a tensor is not finite: a state that must not replace a good one.
        """
        floating = {name: tensor for name, tensor in self._named() if tensor.is_floating_point()}
        finite = torch.stack([torch.isfinite(tensor).all().to(self._place.device) for tensor in floating.values()])
        if not finite.all():  # the only look that waits for the device
            name = list(floating)[int(finite.int().argmin())]
            raise FloatingPointError(f"after step {self.step}, {name} is not finite: lower the learning rate")
        tensors = {
            name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in self._named()
        }
        return Checkpoint(self.step, tensors, list(self.history), self.workers, kept)

    def compile(self) -> None:
        """Let ``torch.compile`` make the kernels of the networks, once for each size of view; names stay."""
        for network in self.network.children():
            network.compile(dynamic=False)

    def resume(self, checkpoints: CheckpointStore) -> None:
        """Take over the latest checkpoint, if there is any: rank 0 reads it and hands it to the other processes.

        Raises:
            ValueError: the checkpoint is of another network; the text lists what differs.
        """
        if self._place.rank == 0 and (latest := checkpoints.latest()) is not None:
            self._restore(latest)
        self.step = int(self._place.from_first(torch.tensor(self.step, device=self._place.device)))
        if self.step:
            for _, tensor in self._named():
                self._place.from_first(tensor)
        set_step(self.optimizer, self.step)
        if not self.workers or self.workers[-1][1] != self._place.size:
            self.workers += ((self.step, self._place.size),)

    def _restore(self, checkpoint: Checkpoint) -> None:
        own = dict(self._named())
        problems = [
            *(f"missing {name}" for name in own if name not in checkpoint.tensors),
            *(f"unexpected {name}" for name in checkpoint.tensors if name not in own),
            *(
                f"{name} has shape {tuple(tensor.shape)} where {tuple(own[name].shape)} is wanted"
                for name, tensor in checkpoint.tensors.items()
                if name in own and tensor.shape != own[name].shape
            ),
        ]
        if problems:
            raise ValueError(f"the checkpoint is of another network or optimiser: {'; '.join(problems)}")
        for name, tensor in own.items():
            tensor.copy_(checkpoint.tensors[name])
        self.step = checkpoint.step
        self.history = list(checkpoint.history)
        self.workers = checkpoint.workers

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the state under its name in a checkpoint, sharing memory."""
        for name, tensor in self.network.state_dict().items():
            yield name.replace("online.predictors.", "predictors.", 1), tensor
        yield from optimizer_tensors(self.optimizer, self.network.online)
