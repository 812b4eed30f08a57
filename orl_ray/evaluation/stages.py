"""The stage ``evaluation``: untrained, image-level and object-level backbone probed on the labels, if there are any."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.config import Config
from orl_ray.embeddings.encoder import FrozenEncoder, frozen_backbone, load_weights
from orl_ray.embeddings.vectors import embed
from orl_ray.environment import numeric_environment
from orl_ray.evaluation.folds import validation_fold
from orl_ray.evaluation.leakage import seen_in_training
from orl_ray.evaluation.protocol import NothingToScoreError, evaluate
from orl_ray.execution import StageRun
from orl_ray.pipeline import Input, Stage, one_cpu
from orl_ray.scenes.decode import BadImageError, crop_resize, decode
from orl_ray.scenes.entries import SourceImage
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.labels import Labels, labelled_files, read_labels
from orl_ray.scenes.near_duplicate_stage import Fingerprints, Groups, read_fingerprints, read_groups
from orl_ray.scenes.near_duplicates import fingerprint
from orl_ray.scenes.packs import ARTIFACT as PACKED
from orl_ray.scenes.reading import Quarantine, decoded_scenes
from orl_ray.scenes.source_reading import read_entries
from orl_ray.scenes.sources import list_source
from orl_ray.settings import Value, several
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import Store

RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class ProbeImage:
    """An image that is fitted on or scored.

    The test split was never ingested, so it lies in no part of the scenes, and its fingerprint is taken as it is read.
    """

    image_id: int
    split: str
    path: str
    scenes_key: str = ""
    source: SourceImage | None = None
    scored: bool = False
    fingerprint: tuple[int, bytes] | None = None


def no_labels(config: Config) -> str:
    """Say why a config cannot be evaluated, or ""."""
    if config.source.kind == "generated" or config.source.annotations:
        return ""
    return "no labels: the source is a plain folder; everything else works without them"


def reads_test_split(config: Config) -> bool:
    """Tell whether images of the test split are scored, which was never packed."""
    return config.evaluation.split == "test"


def label_identity(config: Config) -> dict[str, Value]:
    """Hash the files that hold the labels and the splits."""
    files = {"annotations": several(config.source.annotations), "splits": several(config.source.splits)}
    prints = {name: [JsonFile.at(place).fingerprint() for place in places] for name, places in files.items()}
    return {name: ", ".join(values) for name, values in prints.items() if values}


def probe_images(config: Config, store: Store, manifest: str, groups: Groups) -> list[ProbeImage]:
    """Choose the images that are fitted on and scored: at most ``evaluation.max_images``, by a keyed draw.

    Args:
        config: the config. With ``evaluation.split=validation`` a fold of the training split is scored, with ``test``
            the test split; the rest of (or all of) the training split is fitted on.
        store: the store.
        manifest: key of the scenes' manifest.
        groups: near-duplicates, which are all in the fold or all out of it.
    """
    train = [
        ProbeImage(row["image_id"], "train", row["path"], record.key)
        for record in store.collection("scenes", manifest)
        for row in store.read_table("scenes", record.key).select(["image_id", "path"]).to_pylist()
    ]
    test = []
    if config.evaluation.split == "test":
        listed = list_source(config, store, "test")
        test = [ProbeImage(image.image_id, "test", image.path, source=image) for image in listed]
    images = train + test
    ids = np.array([image.image_id for image in images], dtype=np.int64)
    drawn = draws.uniform(draws.stream(config.seed, "evaluation", "sample"), ids, 1)[:, 0]
    chosen = np.sort(np.argsort(drawn, kind="stable")[: config.evaluation.max_images])
    fold = validation_fold(groups.of(ids), config.seed, config.evaluation.validation_fraction)
    scored = fold if not test else np.arange(len(images)) >= len(train)
    return [replace(images[i], scored=bool(scored[i])) for i in chosen]


def probe_features(
    config: Config, store: Store, images: list[ProbeImage], encoders: dict[str, FrozenEncoder], quarantine: Quarantine
) -> tuple[list[ProbeImage], dict[str, NDArray[np.float32]]]:
    """Embed images with every encoder: the whole image, warped to a square, pooled features.

    Returns:
        The images that could be read, those of the test split with their fingerprints, and for each encoder their
        (n, D) float32 unit vectors.
    """
    chunks: dict[str, list[NDArray[np.float16]]] = {arm: [] for arm in encoders}
    kept: list[ProbeImage] = []
    views = warped_views(config, store, images, quarantine)
    batch_size = config.embeddings.batch_size
    while batch := list(islice(views, batch_size)):
        kept += [image for image, _ in batch]
        for arm, encoder in encoders.items():
            chunks[arm].append(embed(encoder, (view for _, view in batch), batch_size))
    return kept, {arm: np.concatenate(parts).astype(np.float32) for arm, parts in chunks.items()}


def evaluate_encoders(config: Config, store: Store, manifests: dict[str, str], key: str) -> None:
    """Probe the three backbones and write the result; runs in a task."""
    started = time.monotonic()
    quarantine = Quarantine()
    if labelled_files(config, store):
        result, scored = _score(config, store, manifests, quarantine)
    else:
        result, scored = {"not_scored": "the COCO JSON lists images, but no annotations"}, 0
    record = store.write_part(
        "evaluation",
        key,
        0,
        {RESULT: json.dumps(result, indent=1, sort_keys=True, allow_nan=False).encode()},
        rows=scored,
        quarantine=quarantine,
        seconds=time.monotonic() - started,
        environment=numeric_environment("cuda" if config.execution.use_gpu else "cpu"),
    )
    store.write_manifest("evaluation", key, [record])


def run_evaluation(run: StageRun) -> None:
    """Evaluate in one task, on a GPU where ``execution.use_gpu`` is set."""
    gpus = 1 if run.config.execution.use_gpu else 0
    task = stage_task(run, evaluate_encoders, num_gpus=gpus)
    outcome(run, task.remote(run.config, run.store, run.plan.manifests, run.plan.key))


def _score(
    config: Config, store: Store, manifests: dict[str, str], quarantine: Quarantine
) -> tuple[dict[str, Any], int]:
    """Return the result as JSON, or why there is none, and the number of scored images."""
    encoders = {
        "untrained": frozen_backbone(config, None),
        **{
            arm: frozen_backbone(config, load_weights(store, arm, manifests[arm]))
            for arm in ("image_level", "object_level")
        },
    }
    groups = read_groups(store, manifests["near_duplicates"])
    chosen = probe_images(config, store, manifests["scenes"], groups)
    labels = {split: _labels(config, store, split) for split in {image.split for image in chosen}}
    chosen = [image for image in chosen if _has_labels(labels[image.split], image)]  # COCO+ has images without
    if not chosen:
        return {"not_scored": "no image has labels"}, 0
    images, features = probe_features(config, store, chosen, encoders, quarantine)
    present = np.stack([_present(labels[image.split], image) for image in images])
    to_score = np.array([image.scored for image in images])
    seen = _seen(config, store, manifests["scenes"], images)
    scored = to_score & ~seen
    ids = np.array([image.image_id for image in images], dtype=np.int64)
    try:
        result = evaluate(
            features,
            ids,
            groups.of(ids),
            present,
            labels["train"].classes,
            fit_mask=~to_score,
            score_mask=scored,
            settings=config.evaluation,
            seed=config.seed,
        )
    except NothingToScoreError as error:
        return {"not_scored": str(error)}, int(scored.sum())
    return replace(result, near_duplicates=int(seen.sum())).to_json(), int(scored.sum())


def _seen(config: Config, store: Store, manifest: str, images: list[ProbeImage]) -> NDArray[np.bool_]:
    """Say which images are of the test split and near-duplicates of any image that was ingested."""
    prints = {row: image.fingerprint for row, image in enumerate(images) if image.fingerprint}
    seen = np.zeros(len(images), dtype=np.bool_)
    if prints:
        rows = np.array(list(prints))
        hashes = np.array([perceptual_hash for perceptual_hash, _ in prints.values()], dtype=np.uint64)
        thumbnails = np.array([np.frombuffer(thumbnail, np.uint8) for _, thumbnail in prints.values()])
        train = read_fingerprints(store, (record.facts[PACKED] for record in store.collection("scenes", manifest)))
        seen[rows] = seen_in_training(train, Fingerprints(rows, hashes, thumbnails), config.near_duplicates)
    return seen


def warped_views(
    config: Config, store: Store, images: list[ProbeImage], quarantine: Quarantine
) -> Iterator[tuple[ProbeImage, NDArray[np.uint8]]]:
    """Yield images, warped to (S, S, 3) RGB uint8 squares of ``embeddings.image_crop``, one at a time.

    Those of the test split come with their fingerprints; those that cannot be read go to ``quarantine``.
    """
    for image, pixels in _pixels(config, store, images, quarantine):
        whole = np.array([0, 0, pixels.shape[1], pixels.shape[0]], np.int32)
        known = image if image.scenes_key else replace(image, fingerprint=fingerprint(pixels))
        yield known, crop_resize(pixels, whole, config.embeddings.image_crop)


def _pixels(
    config: Config, store: Store, images: list[ProbeImage], quarantine: Quarantine
) -> Iterator[tuple[ProbeImage, NDArray[np.uint8]]]:
    """Decode images in their order: those of the training split from their packs, part by part."""
    max_pixels = config.source.max_pixels
    for scenes_key, group in groupby(images, key=lambda image: image.scenes_key):
        by_id = {image.image_id: image for image in group}
        if scenes_key:
            for image_id, pixels in decoded_scenes(store, scenes_key, max_pixels, by_id.keys()):
                yield by_id[image_id], pixels
            continue
        rows = [asdict(image.source) for image in by_id.values() if image.source]
        for row, data in read_entries(config, store, rows, "test"):
            try:
                if isinstance(data, BadImageError):
                    raise data
                pixels = decode(data, max_pixels)
            except BadImageError as error:
                quarantine.append((row["image_id"], row["path"], str(error)))
            else:
                yield by_id[row["image_id"]], pixels


def _labels(config: Config, store: Store, split: str) -> Labels:
    return read_labels(labelled_files(config, store, split))


def _has_labels(labels: Labels, image: ProbeImage) -> bool:
    return bool(labels.known(np.array([image.image_id]))[0])


def _present(labels: Labels, image: ProbeImage) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = labels.present(np.array([image.image_id]))[0]
    return found


EVALUATION = Stage(
    name="evaluation",
    title="evaluate",
    version=2,
    inputs=(
        Input("scenes", "collection"),
        Input("near_duplicates", "collection"),
        Input("image_level", "collection"),
        Input("object_level", "collection"),
    ),
    settings=(
        "seed",
        "encoder.backbone",
        "near_duplicates",
        "evaluation",
        "embeddings.image_crop",
        "embeddings.batch_size",
        "generated.test_images",
    ),
    scope="collection",
    budget=one_cpu,
    skip=no_labels,
    identity=label_identity,
    work=run_evaluation,
    reads_source=reads_test_split,
)
