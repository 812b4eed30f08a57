"""Whether the warnings of a collapse come where a training collapses, and stay away where it does not.

``python -m benchmarks.collapse [--size small|laptop] [--stage STAGE] [--seeds N] [case ...]`` trains on generated
scenes: as it should be, and with what keeps BYOL from collapsing taken away. It prints for each training how far the
spread and the effective rank of its features fell, as shares of what they were at initialisation, and which warnings
came. The last line is the same as JSON; the exit status is 0 where the warnings are those that the case is meant to
raise.

``small`` takes a quarter of a minute a training on one core, ``laptop`` is the preset, minutes. RoIs of object-level
trainings are the annotated objects, and pairs are objects of one class.
"""

import argparse
import io
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from orl_ray import config
from orl_ray.pretraining import networks
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.collapse import SIGNS, warnings
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.objectives import OnlineTarget, Views
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.scenes.generated import render_scene
from orl_ray.settings import load

_TEMPERATURE = 20.0


class NoPredictor(OnlineTarget):
    """BYOL whose predictors pass the projections on as they are."""

    def __init__(
        self,
        encoder: config.Encoder,
        terms: tuple[str, ...],
        seed: int,
        stage: str,
        backbone: Mapping[str, Tensor] | None = None,
        *,
        merge_views: bool = False,
    ) -> None:
        super().__init__(encoder, terms, seed, stage, backbone, merge_views=merge_views)
        for term in terms:
            self.online.predictors[term] = nn.Identity()


class Lukewarm(OnlineTarget):
    """Contrastive learning at a temperature so high that features are pushed off their mean, but not apart.

    That leaves them few directions: what spreads features evenly is that near ones repel each other most.
    """

    def losses(
        self, online: nn.Module, views: Views, sample_weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Return InfoNCE of each term in both directions, and the first term's projections."""
        del sample_weights
        losses = {}
        for term, (first, second) in online(views).items():
            features = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
            cosines = features[0] @ features[1].T / _TEMPERATURE
            own = torch.arange(len(cosines))
            losses[term] = functional.cross_entropy(cosines, own) + functional.cross_entropy(cosines.T, own)
        return losses, features


@dataclass(frozen=True, slots=True)
class Case:
    """One way to train.

    Attributes:
        network: learns.
        settings: changes to those of a healthy training.
        raises: the signs that are to be told.
    """

    network: type[OnlineTarget]
    settings: Mapping[str, Any]
    raises: frozenset[str]


TOTAL, DIMENSIONAL = (sign.name for sign in SIGNS)
CASES = {
    "healthy": Case(OnlineTarget, {}, frozenset()),
    "total": Case(NoPredictor, {"ema_base": 0.0, "ema_horizon": 0.0}, frozenset({TOTAL})),
    "dimensional": Case(Lukewarm, {"learning_rate": 100.0}, frozenset({DIMENSIONAL})),
}
IMAGE_LEVEL, OBJECT_LEVEL = "image_level", "object_level"
SMALL_ENCODER = config.Encoder("resnet18", hidden=64, output=32)
_SHORT: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 16,
    "view_size": 32,
    "learning_rate": 1.6,
    "warmup_epochs": 1,
    "ema_base": 0.99,
    "ema_horizon": 0.1,
}
SMALL = {
    IMAGE_LEVEL: config.ImageLevel(**_SHORT),
    OBJECT_LEVEL: config.ObjectLevel(**_SHORT, patch_size=32),
}


class Memory:
    """Checkpoints in memory."""

    def __init__(self) -> None:
        self.saved: Checkpoint | None = None

    def latest(self) -> Checkpoint | None:
        """Return what was saved last."""
        return self.saved

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep the newest alone."""
        self.saved = checkpoint


def main() -> int:
    """Train every case and print what was told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--size", choices=("small", "laptop"), default="small")
    parser.add_argument("--stage", choices=tuple(SMALL), default=IMAGE_LEVEL)
    parser.add_argument("--seeds", type=int, default=2, help="trainings a case")
    options = parser.parse_args()
    laptop = load("laptop")
    if options.size == "small":
        settings, encoder, images, side = SMALL[options.stage], SMALL_ENCODER, 64, 96
    else:
        settings, encoder = getattr(laptop, options.stage), laptop.encoder
        images, side = laptop.generated.images, laptop.generated.side
    torch.set_num_threads(1)
    found, as_meant = [], True
    with tempfile.TemporaryDirectory(prefix="orl-bench-") as folder:
        for seed in range(options.seeds):
            training_set = scenes(Path(folder) / str(seed), seed, images, side)
            for name in options.cases or CASES:
                history = train_case(CASES[name], settings, encoder, seed, training_set)
                told = warnings(options.stage, history)
                found.append({"case": name, "seed": seed, **fall(history), "told": sorted(told)})
                print(found[-1], *told.values(), flush=True)
                as_meant &= told.keys() == CASES[name].raises
    print(json.dumps({"size": options.size, "stage": options.stage, "as_meant": as_meant, "trainings": found}))
    return 0 if as_meant else 1


def scenes(folder: Path, seed: int, images: int, side: int) -> TrainingSet:
    """Render scenes into a training set for either stage."""
    rendered = [render_scene(seed, "train", number, side) for number in range(images)]
    shown: defaultdict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for number, scene in enumerate(rendered):
        for name, box in zip(scene.class_ids.tolist(), scene.boxes.tolist(), strict=True):
            shown[name].append((number, box))
    with TrainingSetWriter(folder, max_pixels=side * side) as writer:
        for number, scene in enumerate(rendered):
            file = io.BytesIO()
            Image.fromarray(scene.image).save(file, "jpeg", quality=90)
            partners: dict[int, tuple[int, list[list[int]], list[list[int]]]] = {}
            for name, box in zip(scene.class_ids.tolist(), scene.boxes.tolist(), strict=True):
                others = [entry for entry in shown[name] if entry[0] != number]
                for other, other_box in others[number % len(others) :][:1] if others else []:
                    partners.setdefault(other, (other, [box], [other_box]))
            writer.add(number, file.getvalue(), scene.boxes, list(partners.values()))
    return TrainingSet.open(folder)


def train_case(
    case: Case, settings: config.Pretraining, encoder: config.Encoder, seed: int, training_set: TrainingSet
) -> list[dict[str, float]]:
    """Train and return the history."""
    store, changed = Memory(), replace(settings, **case.settings)
    with mock.patch.object(networks, "OnlineTarget", case.network):
        stage = OBJECT_LEVEL if isinstance(settings, config.ObjectLevel) else IMAGE_LEVEL
        train(
            changed,
            encoder,
            stage,
            seed,
            training_set,
            store,
            Place(),
            lambda *_: None,
            Running(checkpoint_seconds=math.inf),
        )
    return store.saved.history if store.saved else []


def fall(history: list[dict[str, float]]) -> dict[str, float]:
    """Return for each sign the lowest value of its measurement, as a share of the first."""
    shares = {}
    for sign in SIGNS:
        values = [entry[sign.measure] for entry in history if sign.measure in entry]
        shares[sign.measure] = round(min(values) / values[0], 3)
    return shares


if __name__ == "__main__":
    sys.exit(main())
