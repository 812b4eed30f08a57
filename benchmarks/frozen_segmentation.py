"""How well do frozen features segment? Mean IoU of a linear classifier a pixel, against untrained weights.

``python -m benchmarks.frozen_segmentation --images FOLDER --annotations COCO.json --splits JSON [--weights FILE ..]``
trains and scores the classifier of :mod:`orl_ray.evaluation.segmentation` for each file of weights, of any layout that
``python -m orl_ray import encoder`` reads, and for untrained weights of the same architecture, on the same images with
the same seed. ``--layout voc2012|ade20k|coco_stuff --images ROOT`` reads those sets as they are published. ``--set
longer=256 epochs=4`` changes constants of the protocol, and so its hash.

The last line is JSON: the protocol and its hash, and of each arm ``miou`` as [value, low, high] (basic bootstrap over
the test images, 95 %), ``accuracy`` a pixel, ``gain`` over the untrained arm as [value, low, high], paired; and
``majority``, the mean IoU of saying the most frequent class everywhere. The intervals cover the choice of test images
alone. Exits with 1 where an arm is not above ``majority``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from orl_ray.encoders.backbones import Backbone, build_backbone, initialise
from orl_ray.encoders.weight_files import read_encoder
from orl_ray.evaluation.bootstrap import QUANTILES
from orl_ray.evaluation.mean_iou import Overlaps, bootstrap_mean_iou, mean_iou, overlap, pixel_accuracy
from orl_ray.evaluation.protocol import protocol_hash
from orl_ray.evaluation.segmentation import Protocol, score_pixel_classifier, train_pixel_classifier
from orl_ray.evaluation.segmentation_layouts import SegmentedImages, ade20k, coco_masks, coco_stuff, voc2012
from orl_ray.progress import Console, StageProgress

_LAYOUTS = {"voc2012": voc2012, "ade20k": ade20k, "coco_stuff": coco_stuff}
_UNTRAINED = "untrained"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    protocol = _protocol(options.set)
    train, test = (_data(options, split) for split in ("train", "test"))
    device = torch.device("cuda" if options.gpu else "cpu")
    scored, console = dict[str, Overlaps](), Console()
    for arm, backbone in _arms(options):
        progress = StageProgress(console, f"segment with {arm}", 0, "steps")
        network = train_pixel_classifier(backbone, train, protocol, options.seed, device, progress.update)
        scored[arm] = score_pixel_classifier(network, test, protocol.longer, device)
    described = protocol.describe(train, test)
    majority = mean_iou(_majority(train, test))
    drawn = {arm: bootstrap_mean_iou(found, options.samples, options.seed) for arm, found in scored.items()}
    result = {
        "protocol": described,
        "protocol_hash": protocol_hash(described),
        "seed": options.seed,
        "majority": majority,
        "arms": {arm: _told(arm, scored, drawn) for arm in scored},
    }
    print(json.dumps(result))
    return 0 if all(mean_iou(found) > majority for found in scored.values()) else 1


def _arms(options: argparse.Namespace) -> list[tuple[str, Backbone]]:
    given = {Path(place).stem if len(options.weights) < 2 else place: read_encoder(place) for place in options.weights}
    kinds = {found.architecture for found in given.values()} or {options.backbone}
    if len(kinds) > 1:
        raise SystemExit(f"weights of {' and '.join(sorted(kinds))}: compare one architecture at a time")
    untrained = build_backbone(kinds.pop())
    initialise(untrained, options.seed, "image_level", "backbone")
    return [(_UNTRAINED, untrained), *((arm, found.backbone) for arm, found in given.items())]


def _told(arm: str, scored: dict[str, Overlaps], drawn: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    value = mean_iou(scored[arm])
    told: dict[str, Any] = {"miou": _interval(value, drawn[arm]), "accuracy": pixel_accuracy(scored[arm])}
    if arm != _UNTRAINED:
        told["gain"] = _interval(value - mean_iou(scored[_UNTRAINED]), drawn[arm] - drawn[_UNTRAINED])
    return told


def _interval(value: float, drawn: NDArray[np.float64]) -> list[float]:
    low, high = np.quantile(drawn, QUANTILES)
    return [value, float(2 * value - high), float(2 * value - low)]


def _majority(train: SegmentedImages, test: SegmentedImages) -> Overlaps:
    """Score saying everywhere the class that most training pixels are of."""
    counts = np.zeros(256, np.int64)
    for at in range(len(train)):
        counts += np.bincount(train.label_map(at).ravel(), minlength=256)
    most = int(np.argmax(counts[: len(train.classes)]))
    maps = map(test.label_map, range(len(test)))
    rows = [overlap(np.full_like(labels, most), labels, len(train.classes)) for labels in maps]
    return Overlaps(np.concatenate([row.both for row in rows]), np.concatenate([row.either for row in rows]))


def _data(options: argparse.Namespace, split: str) -> SegmentedImages:
    root = Path(options.images)
    if options.layout:
        return _LAYOUTS[options.layout](root, "val" if split == "test" else split)
    if not options.annotations:
        raise SystemExit("name --annotations, a COCO JSON with masks, or --layout")
    if not options.splits:
        raise SystemExit('name --splits, a JSON {"train": [file names], "test": [file names]}')
    return coco_masks(root, Path(options.annotations), Path(options.splits), split)


def _protocol(changes: Sequence[str]) -> Protocol:
    kinds: dict[str, Any] = {entry.name: type(entry.default) for entry in fields(Protocol)}
    values: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in kinds:
            raise SystemExit(f"no constant {name!r}; they are {', '.join(kinds)}")
        values[name] = tuple(text.split(",")) if kinds[name] is tuple else kinds[name](float(text))
    return replace(Protocol(), **values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frozen_segmentation", description=__doc__)
    parser.add_argument("--images", required=True, help="the image folder, or the root of the layout")
    parser.add_argument("--annotations", help="a COCO JSON with masks")
    parser.add_argument("--splits", help="which images are trained on, and which scored")
    parser.add_argument("--layout", choices=list(_LAYOUTS))
    parser.add_argument("--weights", nargs="*", default=[], help="files of weights, one an arm")
    parser.add_argument("--backbone", default="resnet18", help="of the untrained arm, where no weights are given")
    parser.add_argument("--set", nargs="*", default=[], metavar="name=value", help="constants of the protocol")
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
