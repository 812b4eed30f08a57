"""The score of every arm: its frozen backbone probed on scenes that nothing was pre-trained on.

The scenes are of the generator's validation split. Half of them, drawn by id, are fitted on, the others scored, with
the protocol of ``orl_ray.evaluation``. The test split stays unrendered.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from orl_ray.config import Config
from orl_ray.embeddings.encoder import frozen_backbone
from orl_ray.embeddings.vectors import embed
from orl_ray.evaluation.folds import validation_fold
from orl_ray.evaluation.protocol import evaluate
from orl_ray.evaluation.result import Result
from orl_ray.folders import Folder
from orl_ray.scenes.decode import crop_resize, decode
from orl_ray.scenes.generated import write_collection
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.labels import read_labels

SPLIT = "validation"


def score(config: Config, weights: Mapping[str, dict[str, Tensor]], folder: Path, scenes: int) -> Result:
    """Probe every arm on the same scenes.

    Args:
        config: the seed, the encoder, and the settings of the evaluation; ``evaluation.validation_fraction`` of the
            scenes are scored.
        weights: arm -> the tensors of its backbone.
        folder: where the scenes are, or are rendered to.
        scenes: how many.

    Raises:
        NothingToScoreError: there are too few.
    """
    write_collection(folder, config.seed, SPLIT, scenes, config.generated.side)
    labels = read_labels([JsonFile(Folder(folder), "instances.json")])
    ids, batch = labels.image_ids, config.embeddings.batch_size
    features = {
        arm: embed(frozen_backbone(config, tensors), _whole(folder, config), batch).astype(np.float32)
        for arm, tensors in weights.items()
    }
    scored = validation_fold(ids, config.seed, config.evaluation.validation_fraction)
    return evaluate(
        features,
        ids,
        ids,
        labels.present(ids),
        labels.classes,
        fit_mask=~scored,
        score_mask=scored,
        settings=config.evaluation,
        seed=config.seed,
    )


def difference(result: Result, arm: str, baseline: str, metric: str) -> tuple[float, float, float]:
    """Return an arm's mAP minus a baseline's, and its interval, whichever way round the result holds them."""
    for entry in result.differences:
        if entry.metric == metric and (entry.arm, entry.baseline) == (arm, baseline):
            return entry.value, entry.low, entry.high
        if entry.metric == metric and (entry.arm, entry.baseline) == (baseline, arm):
            return -entry.value, -entry.high, -entry.low
    raise KeyError(f"no difference of {arm} and {baseline} by {metric}")


def _whole(folder: Path, config: Config) -> Iterator[NDArray[np.uint8]]:
    """Warp every scene to a square, by rising id, as the stage ``evaluation`` does."""
    for path in sorted((folder / "images").iterdir()):
        pixels = decode(path.read_bytes(), config.source.max_pixels)
        box = np.array([0, 0, pixels.shape[1], pixels.shape[0]], np.int32)
        yield crop_resize(pixels, box, config.embeddings.image_crop)
