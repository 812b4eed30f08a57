"""One training of classifiers as small, plain values that any process can run: which data, weights and recipe."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from orl_ray.encoders.backbones import Backbone, build_backbone, initialise
from orl_ray.encoders.weights import load_backbone
from orl_ray.evaluation import recipes, subsets
from orl_ray.evaluation.classifier_loop import OnStep, Scores, train_classifier
from orl_ray.evaluation.protocol import protocol_hash
from orl_ray.evaluation.recipes import Recipe
from orl_ray.evaluation.single_label_layouts import LAYOUTS, LabelledImages
from orl_ray.pretraining.checkpoints import FolderCheckpoints
from orl_ray.pretraining.place import Place
from orl_ray.storage import digest_file

UNTRAINED = "untrained"


@dataclass(frozen=True, slots=True)
class Judged:
    """The backbone that is judged.

    Attributes:
        name: its architecture.
        weights: a safetensors file with torchvision's ResNet keys, such as ``backbone.safetensors`` of a store; or
            ``untrained``, which stands for the weights that image-level training starts from.
    """

    name: str
    weights: str

    @property
    def is_trained(self) -> bool:
        """Whether the weights come from a file."""
        return self.weights != UNTRAINED

    def load(self, seed: int) -> Backbone:
        """Build the backbone.

        Args:
            seed: draws untrained weights; others do not depend on it.

        Raises:
            ValueError: keys are missing or left over, or shapes differ.
            OSError: there is no such file.
        """
        backbone = build_backbone(self.name)
        if self.is_trained:
            load_backbone(backbone, load_file(self.weights))
        else:
            initialise(backbone, seed, "image_level", "backbone")
        return backbone

    def identity(self) -> str:
        """Return the hash of the weights, or ``untrained``."""
        return digest_file(Path(self.weights)) if self.is_trained else UNTRAINED


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on and scored.

    Attributes:
        layout: ``imagenet``, ``places205`` or ``inaturalist18``.
        root: its folder, seen by every process.
        labels: share of the training labels: ``all``, a percentage such as ``1%``, drawn by class and seed, or the path
            of a published list.
        fold: train on what is left of the training labels without their validation fold, and score that fold.
    """

    layout: str
    root: str
    labels: str = "all"
    fold: bool = False

    def read(self, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Return what is trained on and what is scored.

        Args:
            seed: draws a share of the labels, and the fold.

        Raises:
            ValueError: the layout is unknown or its files do not go together.
        """
        if self.layout not in LAYOUTS:
            raise ValueError(f"unknown layout {self.layout!r}; choose one of {', '.join(LAYOUTS)}")
        read = LAYOUTS[self.layout]
        train = read(Path(self.root), "train")
        if self.labels.endswith("%"):
            train = subsets.drawn(train, float(self.labels[:-1]) / 100, seed)
        elif self.labels != "all":
            train = subsets.listed(train, Path(self.labels))
        return subsets.fold(train, seed) if self.fold else (train, read(Path(self.root), "val"))

    def describe(self, seed: int) -> dict[str, Any]:
        """Name the data by layout, sizes and a hash of the file names and labels, but not by where they lie."""
        train, test = self.read(seed)
        share = "list" if self.labels != "all" and not self.labels.endswith("%") else self.labels
        return {
            "layout": self.layout,
            "labels": share,
            "train": content(train) if not self.labels.endswith("%") else {"images": len(train)},
            "test": content(test),
        }


@dataclass(frozen=True, slots=True)
class ClassifierJob:
    """One training.

    Attributes:
        judged: the backbone.
        data: the images.
        recipe: every constant.
        seed: draws everything that is drawn.
        folder: for checkpoints of this and other trainings, seen by every process.
        checkpoint_seconds: shortest time between two checkpoints.
    """

    judged: Judged
    data: Data
    recipe: Recipe
    seed: int
    folder: str
    checkpoint_seconds: float = 300.0

    def key(self) -> str:
        """Return the hash of exactly this training: of weights, data, recipe and seed, wherever they lie."""
        identity = {
            "weights": self.judged.identity(),
            "backbone": self.judged.name,
            "data": {name: value for name, value in asdict(self.data).items() if name != "root"},
            "recipe": recipes.describe(self.recipe),
            "seed": self.seed,
        }
        return protocol_hash(identity)

    def checkpoints(self) -> FolderCheckpoints:
        """Return the checkpoints of exactly this training."""
        return FolderCheckpoints(Path(self.folder) / "checkpoints" / self.key())

    def finished(self) -> list[Scores] | None:
        """Return the scores where the training is done."""
        latest = self.checkpoints().latest()
        if latest is None or not latest.history or latest.history[-1]["epoch"] < self.recipe.epochs:
            return None
        return latest.history

    def run(self, place: Place, on_step: OnStep, threads: int) -> list[Scores]:
        """Train and score in this process, which is one of ``place.size``; see :func:`train_classifier`.

        A training that is done is read from its last checkpoint.
        """
        if (finished := self.finished()) is not None:
            return finished
        train, test = self.data.read(self.seed)
        return train_classifier(
            self.judged.load(self.seed),
            self.recipe,
            train,
            test,
            seed=self.seed,
            checkpoints=self.checkpoints(),
            place=place,
            on_step=on_step,
            checkpoint_seconds=self.checkpoint_seconds,
            threads=threads,
        )


def content(images: LabelledImages) -> dict[str, Any]:
    """Name a split by its numbers of images and classes, and a hash of its file names and labels."""
    hashed = hashlib.sha256()
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        hashed.update(f"{path} {label}\n".encode())
    return {"images": len(images), "classes": len(images.classes), "hash": hashed.hexdigest()[:16]}
