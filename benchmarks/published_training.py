"""A training step and its input as the published recipe does them (specification 1 and 3), to compare speeds with.

Images are decoded, cropped and augmented by Pillow and torchvision on the host, one view at a time; networks lie in
NCHW; each view is forwarded by itself; the moving average goes parameter by parameter; on a GPU float16 with a scaled
loss.
"""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.transforms import functional

from orl_ray import config
from orl_ray.encoders.normalisation import normalise
from orl_ray.pretraining.objectives import GLOBAL, INTER, INTRA, OnlineTarget
from orl_ray.pretraining.training_set import TrainingSet

_BLUR, _SOLARISE = (1.0, 0.1), (0.0, 0.2)
_SIGMA, _THRESHOLD = (0.1, 2.0), 128
_EMA = 0.99  # its first value; the speed is that of any
Views = dict[str, tuple[Tensor, Tensor]]


class PublishedViews(Dataset[Views]):
    """The views of one image, as uint8 tensors (3, side, side); draws are torch's own.

    Args:
        training_set: images, RoIs and pairs.
        terms: the loss terms whose views are wanted.
        view_size: side of a whole-image view, pixels.
        patch_size: side of a region view, pixels.
    """

    def __init__(self, training_set: TrainingSet, terms: tuple[str, ...], view_size: int, patch_size: int) -> None:
        self._set, self._terms, self._patch = training_set, terms, patch_size
        self._crop = transforms.RandomResizedCrop(view_size)
        self._flip = transforms.RandomHorizontalFlip()
        self._jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8)
        self._gray = transforms.RandomGrayscale(0.2)

    def __len__(self) -> int:
        return len(self._set)

    def __getitem__(self, position: int) -> Views:
        image = self._image(position)
        sides: dict[str, tuple[Image.Image, Image.Image]] = {}
        if GLOBAL in self._terms:
            sides[GLOBAL] = self._crop(image), self._crop(image)
        if INTRA in self._terms:
            box = _any(self._set.rois(position))
            sides[INTRA] = self._cut(image, box), self._cut(image, box)
        if INTER in self._terms:
            row = self._set.rows(position)[int(torch.randint(len(self._set.rows(position)), ()))]
            pair = int(torch.randint(len(row.query_boxes), ()))
            other = self._image(self._set.position(row.neighbor_id))
            sides[INTER] = self._cut(image, row.query_boxes[pair]), self._cut(other, row.neighbor_boxes[pair])
        return {term: (self._augmented(one, 0), self._augmented(two, 1)) for term, (one, two) in sides.items()}

    def _image(self, position: int) -> Image.Image:
        return Image.open(BytesIO(self._set.image_bytes(position))).convert("RGB")

    def _cut(self, image: Image.Image, box: NDArray[np.int32]) -> Image.Image:
        x, y, w, h = box.tolist()
        return image.crop((x, y, x + w, y + h)).resize((self._patch, self._patch), Image.Resampling.BILINEAR)

    def _augmented(self, view: Image.Image, pipeline: int) -> Tensor:
        view = self._gray(self._jitter(self._flip(view)))
        if torch.rand(()) < _BLUR[pipeline]:
            view = view.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(*_SIGMA))))
        if torch.rand(()) < _SOLARISE[pipeline]:
            view = functional.solarize(view, _THRESHOLD)
        pixels: Tensor = functional.pil_to_tensor(view)
        return pixels


def _any(boxes: NDArray[np.int32]) -> NDArray[np.int32]:
    chosen: NDArray[np.int32] = boxes[int(torch.randint(len(boxes), ()))]
    return chosen


def endless_batches(views: PublishedViews, batch_size: int, workers: int) -> Iterator[Views]:
    """Yield batches without end, made by so many worker processes; 0 makes them in this one."""
    context = "forkserver" if workers else None
    while True:
        sampler = RandomSampler(views, replacement=True, num_samples=1000 * batch_size)
        yield from DataLoader(views, batch_size, sampler=sampler, num_workers=workers, multiprocessing_context=context)


class PublishedTraining:
    """A training that goes on step by step.

    Args:
        settings: of the stage.
        network: online and target, as they are initialised.
        device: where it computes.
        batches: as :func:`endless_batches` makes them.
    """

    def __init__(
        self, settings: config.Pretraining, network: OnlineTarget, device: torch.device, batches: Iterator[Views]
    ) -> None:
        self._network, self._device, self._batches = network.to(device), device, batches
        self._optimizer = torch.optim.SGD(
            network.online.parameters(), 0.01, settings.momentum, weight_decay=settings.weight_decay
        )
        self._scaler = torch.amp.GradScaler(enabled=device.type == "cuda")

    def step(self) -> None:
        """Take the next batch and train on it."""
        device, network = self._device, self._network
        views = {
            term: (normalise(first.to(device).float() / 255), normalise(second.to(device).float() / 255))
            for term, (first, second) in next(self._batches).items()
        }
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            losses, _ = network.losses(network.online, views, {})
            loss = torch.stack(list(losses.values())).sum()
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        _average(network.target.backbone, network.online.backbone)
        _average(network.target.projector, network.online.projector)


@torch.no_grad()
def _average(target: nn.Module, online: nn.Module) -> None:
    for averaged, trained in zip(target.parameters(), online.parameters(), strict=True):
        averaged.mul_(_EMA).add_(trained, alpha=1 - _EMA)
