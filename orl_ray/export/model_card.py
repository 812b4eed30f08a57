"""The card of an exported backbone: where its weights come from, how it was trained, what was measured, how to load it.

The card says what the store knows, and no more: no path of the machine that trained it, no claim that was not scored.
"""

import math
from typing import Any

from orl_ray import __version__
from orl_ray.config import Config, flatten
from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.export.trained import Trained
from orl_ray.pins import COPIED_FROM, IMPORT, OBJECT_LEVEL

CARD = "README.md"
_REFERENCE = "Xie et al., “Unsupervised Object-Level Representation Learning from Scene Images”, NeurIPS 2021"
_SOURCES = {
    "generated": "rendered scenes",
    "folder": "photographs of a folder",
    "coco": "photographs that COCO JSONs list",
    "parquet": "photographs in Parquet files",
    "webdataset": "photographs in WebDataset tars",
}
_METHODS = {
    "object_level": f"ORL: BYOL on whole images, on regions, and on cross-image pairs of regions ({_REFERENCE})",
    "image_level": "BYOL on whole images (the first stage of ORL)",
}
_METRICS = {"knn_map": "multi-label k-NN, mAP", "svm_map": "linear SVM, mAP"}
# Settings that a card always shows, below the training's section.
_SHOWN = ("epochs", "batch_size", "view_size", "patch_size", "learning_rate", "weight_decay")
# Settings that say nothing of the weights, and may hold paths.
_PRIVATE = ("execution.", "report.", "source.", "evaluation.", "freeze", "rounds")


def model_card(trained: Trained, library: str, usage: str) -> str:
    """Write a card in Markdown, with the metadata that the Hugging Face hub reads at its head.

    Args:
        trained: the backbone.
        library: whose files lie beside the card, as the hub names it.
        usage: Python that loads them, run in their folder.
    """
    title = f"{trained.architecture}, backbone"
    head = [
        "---",
        f"library_name: {library}",
        "license: unknown",
        "tags:",
        "- self-supervised",
        "- image-features",
        "---",
    ]
    sections = [
        "\n".join([*head, "", f"# {title}"]),
        f"Written by orl_ray {__version__}.",
        "## Use\n\n```python\n" + usage.strip() + "\n```\n\n" + _input_text(trained),
        "## Training\n\n" + _table(_training_rows(trained)),
        "## Evaluation\n\n" + _evaluation_text(trained),
        "## Licence and limits\n\n" + _LIMITS,
    ]
    return "\n\n".join(sections) + "\n"


def preprocessing(trained: Trained) -> tuple[int, int]:
    """Return the shorter side to which its run resized images, and the side of the centre crop, pixels."""
    return trained.setting("embeddings.image_resize", 256), trained.setting("embeddings.image_crop", 224)


_LIMITS = """\
No licence was chosen for these weights: whoever trained them decides, and the rights in the photographs may bear on it.
Write yours into the head of this file before you pass them on.

The network represents what its collection showed often, and represents other things badly; what it learnt of faces and
places in it, it keeps."""


def _input_text(trained: Trained) -> str:
    resize, crop = preprocessing(trained)
    return (
        f"RGB in [0, 1], normalised by mean {list(MEAN)} and standard deviation {list(STD)}. Its run embedded whole\n"
        f"images by resizing the shorter side to {resize} pixels (antialiased bilinear) and cropping the central\n"
        f"{crop} x {crop}; other sizes work, too. A bottleneck strides on its 3 x 3 convolution (ResNet v1.5)."
    )


def _training_rows(trained: Trained) -> list[tuple[str, str]]:
    facts = trained.record.facts
    if IMPORT in facts:
        return [("weights", f"taken from a file of layout {facts[IMPORT]['layout']}, not trained here")]
    # The encoder of a later round is the object-level result of the round before.
    section = OBJECT_LEVEL if COPIED_FROM in facts else trained.stage
    rows = [("method", _METHODS[section])]
    kind = trained.setting("source.kind")
    images = f"{facts['images']:,} " if facts.get("images") else ""
    rows += [("data", f"{images}{_SOURCES[kind]}" if kind else f"{images}images of a source that is not recorded")]
    rows += [("steps", f"{trained.record.rows:,}")]
    if trained.run:
        shown = {name: trained.setting(f"{section}.{name}") for name in _SHOWN}
        rows += [(name, str(value)) for name, value in shown.items() if value is not None]
        rows += [("seed", str(trained.setting("seed")))]
        if changed := _changed(trained.run["config"]):
            rows += [("other settings that differ from the published COCO recipe", ", ".join(changed))]
        if round_ := trained.run.get("round"):
            rows += [("round", f"{round_['number']} of {round_['of']}")]
        rows += [("run", trained.run["run_id"])]
    rows += [("content hash", trained.content_hash)]
    versions = {name: trained.record.environment.get(name) for name in ("torch", "device")}
    return rows + [(name, str(value)) for name, value in versions.items() if value]


def _changed(values: dict[str, Any]) -> list[str]:
    defaults = flatten(Config())
    shown = {f"{stage}.{name}" for stage in _METHODS for name in _SHOWN}
    return [
        f"{name}={values[name]}"
        for name, default in defaults.items()
        if name not in shown
        and name != "seed"
        and not name.startswith(_PRIVATE)
        and values.get(name, default) != default
    ]


def _evaluation_text(trained: Trained) -> str:
    result = trained.evaluation
    if result is None:
        return "Not evaluated: its run had no labels, or did not come that far."
    arms = [trained.stage, *(arm for arm in ("image_level", "untrained") if arm != trained.stage)]
    rows = [
        (
            f"{arm}, {_METRICS.get(score.metric, score.metric)}",
            f"{_number(score.value)} [{_number(score.low)}, {_number(score.high)}]",
        )
        for arm in arms
        for score in result.rows
        if score.arm == arm
    ]
    rows += [("constant scorer, mAP", _number(result.prevalence))]
    return (
        _table(rows)
        + f"\n\nFrozen features, {len(result.classes)} classes, fitted on {result.fit_images:,} images and scored on "
        f"{result.scored_images:,};\n95 % intervals over images. Protocol {result.protocol_hash}: only results with "
        "the same one compare."
    )


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.4f}"


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
