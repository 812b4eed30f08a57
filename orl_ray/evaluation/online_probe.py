"""The online probe: the evaluation's multi-label k-NN, on some images of its validation fold, while a network trains.

It tells early whether a training is worth its time. No label is trained on: the probe is handed to the training loop as
a function of the backbone's tensors, which it only reads. The test split is not touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orl_ray.config import Config
from orl_ray.embeddings.vectors import colours
from orl_ray.encoders.backbones import build_backbone
from orl_ray.encoders.weights import load_backbone
from orl_ray.evaluation.average_precision import mean_average_precision
from orl_ray.evaluation.knn import knn_scores, unit_rows
from orl_ray.evaluation.stages import ProbeImage, probe_images, warped_views
from orl_ray.scenes.labels import labelled_files, read_labels
from orl_ray.scenes.near_duplicate_stage import read_groups
from orl_ray.storage import Store

_LEAST_FITTED = 2


@dataclass(slots=True)
class OnlineProbe:
    """Scores the backbone of a training.

    Small before it is first called, to be sent to a worker; then it holds its images, (n, S, S, 3) uint8.

    Args:
        config: the config.
        store: the store.
        images: what is fitted on and scored.
        present: (n, C) bool, which of the classes that are scored each image shows.
    """

    config: Config
    store: Store
    images: list[ProbeImage]
    present: NDArray[np.bool_]
    _crops: NDArray[np.uint8] | None = field(default=None, init=False)

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Score the k-NN on the pooled features of these weights, with batch norm's running statistics.

        Args:
            weights: the backbone's tensors by name, on the device that the network is to compute on; only read.

        Returns:
            ``probe_knn_map``, mean average precision, and ``probe_chance``, what knowing nothing is worth; empty where
            a vector is not finite.
        """
        if self._crops is None:
            self._crops = self._read()
        vectors = unit_rows(self._embed(self._crops, weights))
        if not np.isfinite(vectors).all():
            return {}
        scored = np.array([image.scored for image in self.images])
        settings, fitted, truth = self.config.evaluation, ~scored, self.present[scored]
        neighbours = min(settings.knn_k, int(fitted.sum()))
        scores = knn_scores(
            vectors[fitted], self.present[fitted], vectors[scored], neighbours, settings.knn_temperature
        )
        value, _ = mean_average_precision(scores, truth, np.ones(truth.shape[1], dtype=np.bool_))
        return {"probe_knn_map": value, "probe_chance": float(truth.mean())}

    def _read(self) -> NDArray[np.uint8]:
        """Read the images from their packs, and put what is known of them in the order in which they come."""
        read = list(warped_views(self.config, self.store, self.images, []))
        rows = {image.image_id: row for row, image in enumerate(self.images)}
        order = [rows[image.image_id] for image, _ in read]
        self.images, self.present = [self.images[row] for row in order], self.present[order]
        return np.stack([crop for _, crop in read])

    def _embed(self, crops: NDArray[np.uint8], weights: Mapping[str, Tensor]) -> NDArray[np.float32]:
        """Embed the crops with a network of the probe's own, so that nothing of the training's changes."""
        device = next(iter(weights.values())).device
        backbone = build_backbone(self.config.encoder.backbone)
        load_backbone(backbone, weights)
        backbone.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            size = self.config.embeddings.batch_size
            vectors = [
                backbone(colours(torch.from_numpy(crops[start : start + size]).to(device))).float().cpu()
                for start in range(0, len(crops), size)
            ]
        embedded: NDArray[np.float32] = torch.cat(vectors).numpy()
        return embedded


def plan_probe(config: Config, store: Store, manifests: Mapping[str, str]) -> OnlineProbe | str:
    """Choose the images of the probe and look up what they show.

    Args:
        config: the config: ``execution.probe_images`` of the training split are drawn; of these, the evaluation's
            validation fold is scored and the rest fitted on.
        store: the store.
        manifests: keys of the manifests of ``scenes`` and ``near_duplicates``.

    Returns:
        The probe, or why there is none.
    """
    files = labelled_files(config, store)
    if not files:
        return "the source has no labels"
    labels = read_labels(files)
    held_out = replace(config.evaluation, split="validation", max_images=config.execution.probe_images)
    groups = read_groups(store, manifests["near_duplicates"])
    chosen = probe_images(replace(config, evaluation=held_out), store, manifests["scenes"], groups)
    known = labels.known(np.array([image.image_id for image in chosen], np.int64))
    images = [image for image, is_known in zip(chosen, known, strict=True) if is_known]
    present = labels.present(np.array([image.image_id for image in images], np.int64))
    scored = np.array([image.scored for image in images], dtype=np.bool_)
    shown = present[scored].sum(axis=0)
    often = (shown >= config.evaluation.min_positives) & (shown <= scored.sum() - config.evaluation.min_positives)
    if (~scored).sum() < _LEAST_FITTED or not often.any():
        return "too few images with labels; raise execution.probe_images"
    return OnlineProbe(config, store, images, present[:, often])
