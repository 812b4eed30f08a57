"""Semantic segmentation of frozen features: a linear classifier a pixel, and mean IoU.

The paper names numbers on ADE20K, PASCAL VOC and COCO-Stuff without a protocol (specification 5.5b); this one is ours,
and compares encoders, not papers. Every constant is in :class:`Protocol`. Images are resized by their longer side and
go through the network one by one; maps of chosen stages are laid over each other at the finest one's resolution,
standardised by channel, and classified by a 1 x 1 convolution. Its logits are interpolated to the pixels of
the label map, both for the loss and for the score, which is thus of full resolution.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from orl_ray import draws
from orl_ray.embeddings.vectors import colours
from orl_ray.encoders.backbones import Backbone
from orl_ray.evaluation.mean_iou import IGNORE, Overlaps, overlap
from orl_ray.evaluation.segmentation_layouts import SegmentedImages
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.scenes.decode import decode, resize_longer

_MAX_PIXELS = 100_000_000
_FLOOR = 1e-5  # added to variances, as batch norm does
_STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


@dataclass(frozen=True, slots=True)
class Protocol:
    """Every constant that shapes the number.

    Attributes:
        longer: longer side to which images are resized, pixels.
        stages: stages of the network whose maps are used, finest first.
        epochs: passes over the training images.
        batch: images a step.
        rate: learning rate at the start; falls to 0 as (1 - step / steps) ** power.
        power: of that.
        momentum: of SGD.
        decay: weight decay.
        standardised: training images, the first ones of the order of training, that mean and deviation are taken from.
        precision: what is computed in.
    """

    longer: int = 512
    stages: tuple[str, ...] = ("layer3", "layer4")
    epochs: float = 20
    batch: int = 16
    rate: float = 0.1
    power: float = 0.9
    momentum: float = 0.9
    decay: float = 1e-4
    standardised: int = 256
    precision: str = "float32"

    def describe(self, data: SegmentedImages, tested: SegmentedImages) -> dict[str, Any]:
        """Return all that a score depends on but weights and seed, for its hash."""
        counts = {"train": len(data), "test": len(tested), "classes": len(data.classes)}
        head = {"head": "1 x 1 convolution", "loss": "cross-entropy a pixel, mean over pixels, then over images"}
        return {"name": "frozen segmentation", "data": {"set": data.name, **counts}, **asdict(self), **head}


class PixelClassifier(nn.Module):
    """A frozen backbone and a linear classifier on its standardised maps.

    Args:
        backbone: put into evaluation mode, and never trained.
        stages: names of its stages, finest first.
        classes: C.
        seed: of the classifier's first weights.

    Raises:
        ValueError: a stage is not known, or not finer than the one behind it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone, stages: tuple[str, ...], classes: int, seed: int) -> None:
        super().__init__()
        unknown = [name for name in stages if name not in _STRIDES]
        if unknown or list(stages) != sorted(set(stages)) or not stages:
            raise ValueError(
                f"stages {', '.join(stages) or '(none)'}: name some of {', '.join(_STRIDES)}, finest first"
            )
        self.backbone = backbone.eval().requires_grad_(requires_grad=False)
        self.stages = stages
        width = sum(backbone.features * _STRIDES[name] // 32 for name in stages)
        self.register_buffer("mean", torch.zeros(1, width, 1, 1))
        self.register_buffer("scale", torch.ones(1, width, 1, 1))
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights of its own; those draws must not leak
            self.linear = nn.Conv2d(width, classes, 1)
        generator = torch.Generator().manual_seed(draws.stream(seed, "evaluation", "segmentation", "weights"))
        nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "PixelClassifier":
        """Switch to training or scoring; the backbone keeps its own statistics in either."""
        super().train(mode)
        self.backbone.eval()
        return self

    def maps(self, image: Tensor) -> Tensor:
        """Return the maps of one (1, 3, H, W) image, of all stages at the finest one's resolution: (1, width, h, w)."""
        found: list[Tensor] = []
        with torch.no_grad():
            for name, child in self.backbone.named_children():
                if len(found) == len(self.stages):
                    break
                image = child(image)
                if name in self.stages:
                    found.append(image)
            stride = _STRIDES[self.stages[0]]
            finest = found[0].shape[2:]
            return torch.cat(
                [
                    at_pixels(maps, _STRIDES[name] // stride, finest)
                    for name, maps in zip(self.stages, found, strict=True)
                ],
                dim=1,
            )

    def logits(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return (1, width, h, w) maps as logits of the pixels of the resized image, (1, C, H, W)."""
        standard = (maps - self.mean) * self.scale
        return at_pixels(self.linear(standard), _STRIDES[self.stages[0]], size)

    def standardise(self, maps: Iterator[Tensor]) -> None:
        """Take mean and deviation of each channel from the maps of some images, over all of their cells."""
        count, total, squares = 0, torch.zeros_like(self.mean).double(), torch.zeros_like(self.mean).double()
        for of_image in maps:
            cells = of_image.double()
            count += cells.shape[2] * cells.shape[3]
            total += cells.sum((2, 3), keepdim=True)
            squares += cells.square().sum((2, 3), keepdim=True)
        variance = squares / count - (total / count).square()
        self.mean.copy_(total / count)
        self.scale.copy_((variance.clamp(min=0) + _FLOOR).rsqrt())


def at_pixels(maps: Tensor, stride: int, size: tuple[int, ...]) -> Tensor:
    """Interpolate maps, bilinearly, whose cell (i, j) is centred on pixel (stride i, stride j).

    Args:
        maps: (n, C, h, w).
        stride: pixels a cell.
        size: (H, W) of the result; beyond the last cell's centre its value is repeated.

    Returns:
        (n, C, H, W).
    """
    if stride == 1 and maps.shape[2:] == torch.Size(size):
        return maps
    spans = [(cells - 1) * stride + 1 for cells in maps.shape[2:]]
    dense = functional.interpolate(maps, size=spans, mode="bilinear", align_corners=True)
    beyond = [max(0, side - span) for side, span in zip(size, spans, strict=True)]
    padded = functional.pad(dense, (0, beyond[1], 0, beyond[0]), mode="replicate")
    return padded[:, :, : size[0], : size[1]]


def train_pixel_classifier(
    backbone: Backbone,
    data: SegmentedImages,
    protocol: Protocol,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, int], None] = lambda _step, _steps: None,
) -> PixelClassifier:
    """Train the classifier; a function of the arguments alone. In memory: a batch's images, one by one.

    Args:
        backbone: the network that is judged.
        data: what is trained on.
        protocol: the constants.
        seed: of first weights and order.
        device: where to compute.
        on_step: told of every step.

    Raises:
        ValueError: an image and its label map differ in size, or an image cannot be read.
        FloatingPointError: the loss is not finite.
    """
    network = PixelClassifier(backbone, protocol.stages, len(data.classes), seed).to(device).train()
    stream = SampleStream(seed, "evaluation segmentation", len(data), protocol.batch)
    steps = stream.total_steps(protocol.epochs)
    first = (int(at) for step in range(steps) for lap in stream.batch(step) for at in lap.positions)
    chosen = itertools.islice(first, min(protocol.standardised, len(data)))
    network.standardise(network.maps(_read(data, at, protocol.longer)[0].to(device)) for at in chosen)
    optimizer = torch.optim.SGD(
        network.linear.parameters(), lr=0.0, momentum=protocol.momentum, weight_decay=protocol.decay
    )
    for step in range(steps):
        optimizer.zero_grad()
        positions = [int(at) for lap in stream.batch(step) for at in lap.positions]
        for position in positions:
            image, labels = _read(data, position, protocol.longer)
            logits = network.logits(network.maps(image.to(device)), image.shape[2:])
            loss = _loss(logits, labels.to(device)) / len(positions)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of step {step} is {loss.item()}: lower the learning rate")
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = protocol.rate * (1 - step / steps) ** protocol.power
        optimizer.step()
        on_step(step + 1, steps)
    return network.eval()


def score_pixel_classifier(
    network: PixelClassifier, data: SegmentedImages, longer: int, device: torch.device
) -> Overlaps:
    """Score a classifier at the resolution of the label maps.

    Args:
        network: the classifier.
        data: what is scored.
        longer: as in :class:`Protocol`.
        device: where to compute.

    Raises:
        ValueError: as :func:`train_pixel_classifier`.
    """
    rows = [
        overlap(predicted, labels, len(data.classes))
        for predicted, labels in predictions(network, data, longer, device)
    ]
    return Overlaps(np.concatenate([row.both for row in rows]), np.concatenate([row.either for row in rows]))


def predictions(
    network: PixelClassifier, data: SegmentedImages, longer: int, device: torch.device
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield (predicted classes, label map) of each image, both (H, W) uint8 of the image's own size."""
    network.eval()
    for position in range(len(data)):
        image, labels = _read(data, position, longer)
        true = data.label_map(position)
        with torch.inference_mode():
            logits = network.logits(network.maps(image.to(device)), labels.shape)
            full = functional.interpolate(logits, size=true.shape, mode="bilinear", align_corners=False)
        yield full.argmax(1)[0].to(torch.uint8).cpu().numpy(), true


def _read(data: SegmentedImages, position: int, longer: int) -> tuple[Tensor, Tensor]:
    """Return a (1, 3, H, W) normalised image, and its (H, W) int64 label map of the same, resized size."""
    path = data.images[position]
    image, labels = decode(path.read_bytes(), _MAX_PIXELS), data.label_map(position)
    if image.shape[:2] != labels.shape:
        raise ValueError(f"{path}: an image of {image.shape[:2]} pixels with a label map of {labels.shape}")
    resized = resize_longer(image, longer)
    height, width = resized.shape[:2]
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(np.int64)
    nearest = labels[rows[:, None], columns[None, :]]
    return colours(torch.from_numpy(resized[None])), torch.from_numpy(nearest.astype(np.int64))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the labelled pixels; 0 where there is none."""
    total = functional.cross_entropy(logits, labels[None], ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)
