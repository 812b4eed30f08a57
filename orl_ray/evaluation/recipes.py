"""The recipes by which classifiers are trained on a backbone, frozen or not: every constant in a table.

Sources: specification 5.2 and 5.3, which tell the configurations in ``configs/benchmarks`` of Jiahao000/ORL @ 2ad64f7
and OpenSelfSup v0.3; ``ours`` marks what no published configuration gives.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

VERSION = 1  # of what the loop makes of a recipe
BATCH = 256
SIDE = 224
HEAD_STD = 0.01  # of a classifier's initial weights; its bias starts at 0
NORM_MOMENTUM = 0.1
NORM_EPS = 1e-5


# What a change would make another protocol of altogether.
_FIXED = ("head", "trains_backbone", "source")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier is trained and scored.

    Attributes:
        head: ``layers``: a classifier on each of conv1 to res5; ``last``: one on the pooled vector.
        trains_backbone: whether the backbone is trained, too, its batch norms synchronised; else it is frozen, with its
            own statistics.
        epochs: walks through the images.
        learning_rate: of the backbone, and, times ``head_rate``, of the classifiers.
        head_rate: multiplies the learning rate of the classifiers.
        milestones: epochs after which the rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        weight_decay: on every parameter, batch norms and biases included.
        nesterov: whether the momentum is Nesterov's.
        jitter: brightness, contrast and saturation are each changed by up to this share, in drawn order; 0: not at all.
        lighting: standard deviation of the noise along the colours' principal axes; 0: none.
        score_every: the classifiers are scored after every so many epochs, and after the last.
        source: where the constants are from.
        batch: images a step, over all processes.
        side: side of a view, pixels.
        momentum: of SGD.
    """

    head: str
    trains_backbone: bool
    epochs: int
    learning_rate: float
    milestones: tuple[int, ...]
    weight_decay: float
    source: str
    head_rate: float = 1.0
    gamma: float = 0.1
    nesterov: bool = False
    jitter: float = 0.0
    lighting: float = 0.0
    score_every: int = 2
    batch: int = BATCH
    side: int = SIDE
    momentum: float = 0.9

    def rate(self, epoch: float) -> float:
        """Return the backbone's learning rate at a point of the training in epochs; it steps between epochs."""
        return self.learning_rate * self.gamma ** sum(int(epoch) >= milestone for milestone in self.milestones)


_LAYERS = Recipe("layers", False, 28, 0.01, (8, 16, 24), 1e-4, "ORL r50_multihead_28ep", nesterov=True)
_LAST = Recipe("last", False, 100, 30.0, (60, 80), 0.0, "OpenSelfSup imagenet r50_last", score_every=1)

# Data set -> name of the recipe -> recipe. The first of each data set is the paper's protocol, as far as can be told.
LINEAR: dict[str, dict[str, Recipe]] = {
    "imagenet": {
        "layers-28": replace(_LAYERS, jitter=0.4, lighting=0.1),
        "layers-90": replace(
            _LAYERS,
            epochs=90,
            milestones=(30, 60, 90),
            jitter=0.4,
            lighting=0.1,
            score_every=10,
            source="OpenSelfSup imagenet r50_multihead",
        ),
        "last-100": _LAST,
    },
    "places205": {
        "layers-14": replace(_LAYERS, epochs=14, milestones=(4, 8, 12), source="ORL r50_multihead_14ep"),
        "last-14": replace(_LAST, epochs=14, milestones=(8, 11), source="ours: last-100 at the length of layers-14"),
    },
    "inaturalist18": {
        "layers-84": replace(_LAYERS, epochs=84, milestones=(24, 48, 72), source="ORL r50_multihead_84ep"),
        "last-84": replace(_LAST, epochs=84, milestones=(50, 67), source="ours: last-100 at the length of layers-84"),
    },
}

_SEMI = Recipe(
    "last", True, 20, 0.01, (12, 16), 5e-4, "ORL semi_classification imagenet_*percent", gamma=0.2, score_every=20
)
_RATES, _HEAD_RATES = (0.001, 0.01, 0.1), (1.0, 10.0, 100.0)
# Percent of the labels -> weight decay of the grid, and those tried beside it at rate 0.01 and head rate 100.
_SEMI_DECAY = {1: (5e-4, (0.0, 1e-4)), 10: (1e-4, (0.0, 5e-4))}


def semi_supervised(percent: int) -> tuple[Recipe, ...]:
    """Return the published grid for fine-tuning on 1 % or 10 % of ImageNet's labels: 11 settings.

    Raises:
        ValueError: no grid was published for that share.
    """
    if percent not in _SEMI_DECAY:
        raise ValueError(f"grids are published for 1 and 10 % of the labels, not for {percent} %")
    decay, others = _SEMI_DECAY[percent]
    grid = [
        replace(_SEMI, learning_rate=rate, head_rate=head, weight_decay=decay)
        for rate in _RATES
        for head in _HEAD_RATES
    ]
    beside = [replace(_SEMI, learning_rate=0.01, head_rate=100.0, weight_decay=other) for other in others]
    return (*grid, *beside)


def changed(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Change constants of a recipe by ``name=value``; the protocol that results has another hash.

    Args:
        recipe: the recipe.
        assignments: such as ``epochs=2``; ``milestones=4,8``.

    Raises:
        ValueError: a name is unknown or a value is none of its type; the text names all of them.
    """
    kinds = {entry.name: type(getattr(recipe, entry.name)) for entry in fields(Recipe) if entry.name not in _FIXED}
    values: dict[str, Any] = {}
    problems = []
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        try:
            values[name] = _value(kinds[name], text)
        except (KeyError, ValueError):
            problems.append(assignment)
    if problems:
        raise ValueError(f"cannot change a recipe by {', '.join(problems)}; its constants are {', '.join(kinds)}")
    return replace(recipe, **values, source=f"changed: {recipe.source}") if values else recipe


def _value(kind: type, text: str) -> Any:
    if kind is tuple:
        return tuple(int(part) for part in text.split(",") if part)
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    return kind(text)


def describe(recipe: Recipe) -> dict[str, Any]:
    """List every constant of a recipe."""
    return {
        **asdict(recipe),
        "milestones": list(recipe.milestones),
        "version": VERSION,
        "optimiser": "SGD",
        "loss": "sum over the classifiers of the mean cross-entropy",
        "training_view": "random resized crop, area 0.08 to 1, aspect 3/4 to 4/3; flip 0.5",
        "test_view": "shorter side to 8/7 of side, central crop",
        "classifier": {"weights_std": HEAD_STD, "bias": 0.0},
        "norm_before_layers": {"affine": False, "momentum": NORM_MOMENTUM, "eps": NORM_EPS, "synchronised": True},
        "batches": "always full; a batch may hold the end of one epoch and the start of the next",
        "precision": "float32",
    }
