"""From a preset, a YAML file and ``key=value`` overrides to a checked :class:`~orl_ray.config.Config`.

Every mistake is found in one pass and reported together, each unknown name with the nearest valid one. Nothing here
imports Ray or torch.
"""

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

from orl_ray.config import FEATURES, FREEZABLE, IMAGE_LEVEL_RESULT, Config
from orl_ray.folders.folder import SCHEMES
from orl_ray.presets import PRESETS

Value = bool | int | float | str

# Fewer images a batch norm batch than this make its statistics, and with them BYOL, break down.
MINIMUM_NORM_BATCH = 8


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line a mistake, in ``mistakes``."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        heading = f"{count} mistake{'s' if count != 1 else ''} in the configuration:"
        super().__init__("\n".join([heading, *(f"  {line}" for line in self.mistakes)]))


def known_settings() -> dict[str, Field[Any]]:
    """Return every setting's dataclass field by its dotted name, in declaration order."""
    names: dict[str, Field[Any]] = {}
    for entry in fields(Config):
        section: Any = entry.default_factory
        if isinstance(section, type):
            names.update({f"{entry.name}.{inner.name}": inner for inner in fields(section)})
        else:
            names[entry.name] = entry
    return names


def default(entry: Field[Any]) -> Value:
    """Return a setting's default, as its own type: 800 epochs of a fractional setting are 800.0."""
    value: Any = entry.default
    typed: Value = float(value) if entry.type is float else value
    return typed


def load(preset: str | None = None, file: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Build a config: defaults, then a preset, then a YAML file, then ``key=value`` overrides; later ones win.

    Args:
        preset: a name in :data:`orl_ray.config.PRESETS`; None takes the key ``preset`` of the file, else ``coco``.
        file: a YAML file, of nested sections or dotted names.
        overrides: strings such as ``"mining.k=5"``.

    Returns:
        The checked config.

    Raises:
        ConfigError: with every mistake that was found.
    """
    mistakes: list[str] = []
    from_file = _read_file(file, mistakes) if file else {}
    from_overrides = _read_overrides(overrides, mistakes)
    named = from_file.pop("preset", "coco")
    preset = str(from_overrides.pop("preset", preset or named))
    if preset not in PRESETS:
        mistakes.append(f"preset: unknown preset {preset!r}{_nearest(preset, PRESETS)}")
    raw: dict[str, object] = {**PRESETS.get(preset, {}), **from_file, **from_overrides}
    values = _check_values(raw, mistakes)
    wrong = values.keys() & {line.partition(":")[0] for line in mistakes}
    # A wrong value stands at its default here: what that default does not go with is no mistake of the user's.
    mistakes.extend(line for line in _check_together(values) if not any(name in line for name in wrong))
    if mistakes:
        raise ConfigError(mistakes)
    return build(values)


def several(value: str) -> list[str]:
    """Split a setting that may hold several texts, separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()]


def build(values: Mapping[str, Value]) -> Config:
    """Build a config from ``{"section.name": value}``; what is not named keeps its default. Checks nothing."""
    sections: dict[str, dict[str, Value]] = {}
    top: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, inner = name.partition(".")
        if dot:
            sections.setdefault(section, {})[inner] = value
        else:
            top[section] = value
    for entry in fields(Config):
        if entry.default_factory is not MISSING:
            top[entry.name] = entry.default_factory(**sections.get(entry.name, {}))
    return Config(**top)


def _read_file(file: str | Path, mistakes: list[str]) -> dict[str, object]:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that does not exist
        mistakes.append(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        mistakes.append(f"{file}: must hold sections and settings, holds a {type(content).__name__}")
        return {}
    flat: dict[str, object] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": inner_value for inner, inner_value in value.items()})
        else:
            flat[str(name)] = value
    return flat


def _read_overrides(overrides: Sequence[str], mistakes: list[str]) -> dict[str, object]:
    known = known_settings()
    values: dict[str, object] = {}
    for override in overrides:
        name, equals, text = (part.strip() for part in override.partition("="))
        if not equals:
            mistakes.append(f"{override}: an override is written name=value")
            continue
        # Text is taken as it stands: YAML would cut a path at " #" and read the name 2024-05-01 as a date.
        is_text = not text or (name in known and known[name].type is str)
        try:
            values[name] = text if is_text else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError):
            values[name] = text
    return values


def _check_values(raw: Mapping[str, object], mistakes: list[str]) -> dict[str, Value]:
    known = known_settings()
    values: dict[str, Value] = {name: default(entry) for name, entry in known.items()}
    for name, value in raw.items():
        if name not in known:
            mistakes.append(f"{name}: unknown setting{_nearest(name, known)}")
            continue
        try:
            values[name] = _check_value(value, known[name])
        except (ValueError, OverflowError) as error:
            mistakes.append(f"{name}: {error}")
    return values


def _check_value(value: object, entry: Field[Any]) -> Value:
    if entry.metadata["several"] and isinstance(value, list):
        value = ", ".join(str(_convert(part, str)) for part in value)
    checked = _convert(value, type(default(entry)))
    choices, low, high = (entry.metadata[bound] for bound in ("choices", "low", "high"))
    if choices and checked not in choices:
        raise ValueError(f"{checked!r} is not one of {', '.join(choices)}{_nearest(str(checked), choices)}")
    if low is not None and float(checked) < low:
        raise ValueError(f"{checked} is below the least allowed value, {low:g}")
    if high is not None and float(checked) > high:
        raise ValueError(f"{checked} is above the greatest allowed value, {high:g}")
    return checked


def _convert(value: object, wanted: type) -> Value:
    problem = ValueError(f"{value!r} is not {_TYPE_WORDS[wanted]}")
    if wanted is bool or isinstance(value, bool):
        if wanted is bool and isinstance(value, bool):
            return value
        raise problem
    if wanted is str and isinstance(value, str | int | float):
        return str(value)
    if wanted is int and isinstance(value, int):
        return value
    if wanted is float and isinstance(value, int | float | str):
        try:
            number = float(value)  # YAML reads 1e-4 as a string
        except ValueError:
            raise problem from None
        if math.isfinite(number):
            return number
    raise problem


_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _nearest(name: str, valid: Mapping[str, object] | Sequence[str]) -> str:
    names, last = list(valid), name.rpartition(".")[2]
    same = [candidate for candidate in names if candidate.rpartition(".")[2] == last]  # right name, wrong section
    matches = difflib.get_close_matches(name, same or names, n=1, cutoff=0.0 if same else 0.6)
    return f"; did you mean {matches[0]}?" if matches else ""


# Cosines of rounded unit vectors may exceed 1 a little.
_LARGEST_COSINE = 1.01
_TRAININGS = ("image_level", "object_level")
_GLOBAL = ("neighbors", "lists", "code_bytes", "probes", "candidates")
# Setting -> (another, its values with which the setting matters).
_ONLY_WITH = {
    "mining.index_effort": ("mining.index", ("ivf", "hnsw", "pq")),
    "embeddings.align_scale": ("embeddings.roi_mode", ("align",)),
    **{f"{stage}.decode_on_gpu": ("execution.use_gpu", (True,)) for stage in _TRAININGS},
    **{f"{stage}.decode_margin": (f"{stage}.decode_on_gpu", (False,)) for stage in _TRAININGS},
    **{f"mining.global_{name}": ("mining.scope", ("global",)) for name in _GLOBAL},
    **{f"{stage}.momentum": (f"{stage}.optimizer", ("sgd", "lars")) for stage in ("image_level", "object_level")},
    **{
        f"image_level.{name}": ("image_level.method", ("byol", "moco"))
        for name in ("ema_base", "ema_final", "ema_horizon")
    },
    "image_level.merge_views": ("image_level.method", ("byol", "simclr")),
    "image_level.temperature": ("image_level.method", ("moco", "simclr")),
    "image_level.queue": ("image_level.method", ("moco",)),
}
# Setting -> frozen artifacts that make it do nothing.
_NOT_WITH_FROZEN = {
    "mining.scope": ("neighbors", "correspondences"),
    "mining.index": ("neighbors",),
    "mining.pairing": ("correspondences",),
}


def _check_together(values: Mapping[str, Value]) -> list[str]:
    def number(name: str) -> float:
        return float(values[name])

    changed = {name for name, entry in known_settings().items() if values[name] != default(entry)}
    mistakes = []
    if values["image_level.method"] == "simclr" and values["image_level.micro_batch"]:
        mistakes.append("image_level.micro_batch: SimCLR contrasts the images of a whole batch; take 0")
    if number("mining.k") > number("mining.k_max"):
        mistakes.append(f"mining.k: {values['mining.k']} is above mining.k_max, {values['mining.k_max']}")
    if number("mining.pair_ratio") > number("mining.ratio_max"):
        ratio, limit = values["mining.pair_ratio"], values["mining.ratio_max"]
        mistakes.append(f"mining.pair_ratio: {ratio} is above mining.ratio_max, {limit}")
    if number("mining.min_similarity") > number("mining.max_similarity"):
        floor, ceiling = values["mining.min_similarity"], values["mining.max_similarity"]
        mistakes.append(f"mining.min_similarity: {floor} is above mining.max_similarity, {ceiling}: no pair is left")
    bounds = changed & {"mining.min_similarity", "mining.max_similarity"}
    mistakes.extend(f"{name}: {values[name]} is no cosine" for name in bounds if abs(number(name)) > _LARGEST_COSINE)
    mistakes.extend(_check_scope(values, changed))
    mistakes.extend(_check_workers(values, changed))
    mistakes.extend(_without_effect(values, changed))
    if number("embeddings.image_crop") > number("embeddings.image_resize"):
        crop, resize = values["embeddings.image_crop"], values["embeddings.image_resize"]
        mistakes.append(f"embeddings.image_crop: {crop} is above embeddings.image_resize, {resize}")
    for stage in _TRAININGS:
        mistakes.extend(_check_training(stage, number))
        mistakes.extend(_check_start(stage, str(values[f"{stage}.init_from"])))
        if values[f"{stage}.cosine"] == "epoch" and values[f"{stage}.last_batch"] == "full":
            mistakes.append(f"{stage}.cosine: epoch needs whole batches in an epoch; take {stage}.last_batch=short")
    if (
        number("object_level.global_weight") + number("object_level.intra_weight") + number("object_level.inter_weight")
        <= 0
    ):
        mistakes.append("object_level.global_weight: all three loss weights are 0, nothing would be learned")
    if "://" in str(values["execution.tensorboard"]):
        mistakes.append("execution.tensorboard: event files are written to a disk: name a folder")
    return [*mistakes, *_check_frozen(str(values["freeze"]), int(number("rounds"))), *_check_source(values)]


def _check_scope(values: Mapping[str, Value], changed: Collection[str]) -> list[str]:
    mistakes: list[str] = []
    if values["mining.scope"] != "global":
        return mistakes
    if "mining.pairing" in changed:
        pairing = f"mining.pairing: {values['mining.pairing']} needs all similarities of two images"
        mistakes.append(f"{pairing}, which mining.scope=global does not compute; take top")
    if float(values["mining.global_neighbors"]) > float(values["mining.global_candidates"]):
        found, limit = values["mining.global_neighbors"], values["mining.global_candidates"]
        mistakes.append(f"mining.global_neighbors: {found} is above mining.global_candidates, {limit}")
    length = FEATURES[str(values["encoder.backbone"])]
    if length % int(values["mining.global_code_bytes"]):
        code = values["mining.global_code_bytes"]
        mistakes.append(f"mining.global_code_bytes: {code} does not divide the {length} numbers of a RoI vector")
    return mistakes


def _without_effect(values: Mapping[str, Value], changed: Collection[str]) -> list[str]:
    """Name what was set and would do nothing: whoever set it expects that it does."""
    mistakes = [
        f"{name}: has no effect with {other}={values[other]}; leave it at {default(known_settings()[name])}"
        for name, (other, used_by) in _ONLY_WITH.items()
        if name in changed and values[other] not in used_by
    ]
    if "execution.probe_images" in changed and not values["execution.probe_epochs"]:
        mistakes.append("execution.probe_images: has no effect with execution.probe_epochs=0")
    frozen = {entry.partition("@")[0].strip() for entry in str(values["freeze"]).split(",")}
    mistakes.extend(
        f"{name}: has no effect on {artifact} that are frozen; leave it at {default(known_settings()[name])}"
        for name, artifacts in _NOT_WITH_FROZEN.items()
        for artifact in artifacts
        if name in changed and artifact in frozen
    )
    return mistakes


def _check_frozen(freeze: str, rounds: int) -> list[str]:
    mistakes = []
    for entry in freeze.split(","):
        name, _, wanted = (part.strip() for part in entry.partition("@"))
        if name and name not in FREEZABLE:
            mistakes.append(f"freeze: {name!r} is not one of {', '.join(FREEZABLE)}{_nearest(name, FREEZABLE)}")
        elif rounds > 1 and name in ("neighbors", "correspondences"):
            mistakes.append(f"rounds: {name} that are frozen are the same in every round; take rounds=1")
        elif rounds > 1 and name == "encoder" and not wanted:
            mistakes.append("freeze: with several rounds, name the first one's encoder by its hash, encoder@...")
    return mistakes


def _check_training(stage: str, number: Any) -> list[str]:
    batch, workers = int(number(f"{stage}.batch_size")), int(number("execution.train_workers"))
    name, least = f"{stage}.batch_size", MINIMUM_NORM_BATCH
    mistakes = []
    micro = int(number(f"{stage}.micro_batch"))
    if micro and (batch % micro or micro == batch):
        mistakes.append(f"{stage}.micro_batch: {micro} must divide {name}, {batch}, and be smaller; 0 takes it whole")
    elif micro:
        name, batch = f"{stage}.micro_batch", micro
    if batch < least:
        mistakes.append(f"{name}: {batch} is too small for batch norm, take {least} or more")
    if number("execution.min_train_workers"):
        if batch < workers:
            mistakes.append(f"{name}: {batch} has less than one image for each of {workers} training workers")
    elif batch % workers:
        mistakes.append(f"{name}: {batch} cannot be shared equally by {workers} training workers")
    if number(f"{stage}.warmup_epochs") > number(f"{stage}.epochs"):
        mistakes.append(f"{stage}.warmup_epochs: the warm-up is longer than {stage}.epochs")
    if number(f"{stage}.ema_base") > number(f"{stage}.ema_final"):
        mistakes.append(f"{stage}.ema_base: {number(f'{stage}.ema_base'):g} is above {stage}.ema_final")
    return mistakes


def _check_start(stage: str, init_from: str) -> list[str]:
    if not init_from or (init_from == IMAGE_LEVEL_RESULT and stage == "object_level"):
        return []
    return _check_place(f"{stage}.init_from", init_from, Path.is_file, "a file")


def _check_workers(values: Mapping[str, Value], changed: Collection[str]) -> list[str]:
    least, most = int(values["execution.min_train_workers"]), int(values["execution.train_workers"])
    mistakes = []
    if least >= most and least:
        mistakes.append(f"execution.min_train_workers: {least} must be below execution.train_workers, {most}; 0: fixed")
    needed = {
        "execution.resize_seconds": "execution.min_train_workers",
        "execution.keep_checkpoints": "execution.checkpoint_epochs",
    }
    mistakes.extend(
        f"{name}: has no effect with {other}=0; leave it at {default(known_settings()[name])}"
        for name, other in needed.items()
        if name in changed and not values[other]
    )
    return mistakes


def _check_source(values: Mapping[str, Value]) -> list[str]:
    kind, mistakes = values["source.kind"], _check_place("execution.store", str(values["execution.store"]))
    if kind == "generated":
        names = ("images", "annotations", "splits", "image_column", "id_column")
        given = [name for name in names if values[f"source.{name}"]]
        return mistakes + [f"source.{name}: generated scenes take none; set source.kind" for name in given]
    folders, annotations = several(str(values["source.images"])), several(str(values["source.annotations"]))
    if not folders:
        mistakes.append(f"source.images: name the folder with the images (source.kind is {kind})")
    for folder in folders:
        mistakes += _check_place("source.images", folder, Path.is_dir, "a folder")
    last_names = {folder.rstrip("/").rpartition("/")[2] for folder in folders}
    if len(folders) > 1 and (len(last_names) < len(folders) or last_names & {"", ".", ".."}):
        mistakes.append("source.images: several folders need last names that differ: image paths begin with them")
    for name, files in (("source.annotations", annotations), ("source.splits", [str(values["source.splits"])])):
        for file in filter(None, files):
            mistakes += _check_place(name, file, Path.is_file, "a file")
    if kind == "coco" and not annotations:
        mistakes.append("source.annotations: name the COCO JSON that lists the images (source.kind is coco)")
    elif kind == "coco" and folders and len(annotations) != len(folders):
        counts = f"{len(annotations)} for {len(folders)} folders"
        mistakes.append(f"source.annotations: {counts}; name one for each folder, in the same order")
    if kind != "coco" and annotations:
        mistakes.append(f"source.annotations: a source of kind {kind} has none; set source.kind to coco")
    if values["source.image_column"] and kind not in ("parquet", "webdataset"):
        mistakes.append(f"source.image_column: a source of kind {kind} has no columns")
    if values["source.id_column"] and kind != "parquet":
        mistakes.append(f"source.id_column: a source of kind {kind} has no columns")
    if values["evaluation.split"] == "test" and not values["source.splits"]:
        mistakes.append("evaluation.split: test needs source.splits, which says what the test split is")
    return mistakes


def _check_place(name: str, place: str, is_there: Callable[[Path], bool] = lambda _: True, what: str = "") -> list[str]:
    """Check a local path or a URI; whether something lies at a URI is for the preflight, which may take its time."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return [] if is_there(Path(place)) else [f"{name}: {place} is not {what}"]
    if scheme not in SCHEMES:
        return [f"{name}: {place} has an unknown scheme; take a path, s3:// or gs://"]
    return [] if rest.partition("/")[0] else [f"{name}: {place} names no bucket"]


def settings_help() -> str:
    """List every setting with its default, its bounds and its meaning, a line each."""
    lines = []
    for name, entry in known_settings().items():
        low, high, choices = (entry.metadata[bound] for bound in ("low", "high", "choices"))
        bounds = [", ".join(choices)] if choices else []
        bounds += [f"at least {low:g}"] if low is not None else []
        bounds += [f"at most {high:g}"] if high is not None else []
        limits = f" ({'; '.join(bounds)})" if bounds else ""
        lines.append(f"{name}={default(entry)}  {entry.metadata['meaning']}{limits}")
    return "\n".join(lines)
