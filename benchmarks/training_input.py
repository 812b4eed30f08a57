"""What a core makes of training samples: this project's input path against the published recipe on Pillow.

``python -m benchmarks.training_input --images FOLDER [--limit 48] [--rounds 3] [--margin 1.0] [--loaders N]`` makes a
training set of photographs: RoIs by selective search and the filter, as the stages do it, and pairs between RoIs of
images drawn at random. Then, on one thread, block by block of 8 samples in turn, for both stages (2 views of 224
pixels; and 4 of 96 beside them):

- ``pil``: ``benchmarks.pil_recipe``, per sample on the host, up to uint8 views;
- ``ours``: what a loader does, decoding and cutting to uint8 views;
- ``kept``: the same from decoded images that ``execution.decoded_gb`` keeps on the disk, after a first pass;
- ``reduced``: ``ours`` with ``decode_margin`` (``--margin``): JPEGs decode at a half, a quarter or an eighth where
  every crop keeps so many times the pixels of its view.

The device's share is measured on the same core: normalising for ``pil``, all of the augmentation for the others.

With ``--loaders N``, N threads and N processes make object-level batches in turn, after their first one; wall time.

``pieces`` are CPU milliseconds of one piece of work, by what stood there before and by what stands there now: decoding
a photograph by Pillow and by ``decode_known``; cutting a view of 224 pixels by Pillow and by torch, with the mean and
largest difference in levels of 255; augmenting an object-level sample by operations on batches and by the kernel.

The last line is a JSON object. For each stage and side: samples a second of CPU time, of the host's share and end to
end; the ratios to ``pil``, medians over the blocks with their range; and for ``reduced`` the share of images that
decoded smaller, and the mean difference of the views, before augmentation, to those of ``ours`` in levels of 255. The
exit status says whether the object-level stage reaches 2 times the samples of ``pil``, and 1.3 times end to end.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.pil_recipe import PilRecipe
from orl_ray import config, draws
from orl_ray.encoders.normalisation import normalise
from orl_ray.pretraining.augmentation import Parameters, augment, augment_on_device
from orl_ray.pretraining.cutting import crop_resize, reduction_for
from orl_ray.pretraining.objectives import GLOBAL, INTER, INTRA
from orl_ray.pretraining.prefetch import view_batches
from orl_ray.pretraining.sampling import LapSamples, SampleStream, Share
from orl_ray.pretraining.training_set import DECODED, META, TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.pretraining.views import Crops, ViewMaker
from orl_ray.proposals.ranking import rank
from orl_ray.proposals.roi_filter import filter_rois
from orl_ray.proposals.selective_search import propose
from orl_ray.scenes.decode import crop_resize as pillow_crop_resize
from orl_ray.scenes.decode import decode, decode_known

_T = TypeVar("_T")
_MAX_PIXELS = 100_000_000
_BLOCK = 8
_NEIGHBORS = 3
_LOADED = 12  # batches that a loader is timed on
_WANTED, _WANTED_END_TO_END = 2.0, 1.3
STAGES = {"image_level": (GLOBAL,), "object_level": (GLOBAL, INTRA, INTER)}
SIDES = ("pil", "ours", "kept", "reduced")


@dataclass(slots=True)
class Seconds:
    """CPU seconds of each block of one side."""

    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--limit", type=int, default=48, help="photographs, the first by name")
    parser.add_argument("--rounds", type=int, default=3, help="times that each image is an anchor")
    parser.add_argument("--margin", type=float, default=1.0, help="decode_margin of the side reduced")
    parser.add_argument("--loaders", type=int, default=0, help="compare so many threads with so many processes")
    options = parser.parse_args()
    files = sorted(path for path in options.images.iterdir() if path.is_file())[: options.limit]
    if len(files) < _BLOCK:
        parser.error(f"{options.images} holds fewer than {_BLOCK} files")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="orl-training-input-") as name:
        training_set = _training_set(files, Path(name) / "set")
        decoded = _keeping(training_set, Path(name) / "keeping")
        result: dict[str, Any] = {"images": len(files), "rounds": options.rounds, "margin": options.margin}
        for stage, terms in STAGES.items():
            result[stage] = _compare(training_set, decoded, stage, terms, options)
        result["pieces"] = _pieces(training_set)
        if options.loaders:
            result["loaders"] = _loaders(training_set, options.loaders, options.rounds)
    ours = result["object_level"]["ours"]
    result["passes"] = ours["times_pil"] >= _WANTED and ours["times_pil_end_to_end"] >= _WANTED_END_TO_END
    print(json.dumps(result))
    return 0 if result["passes"] else 1


def _training_set(files: list[Path], folder: Path) -> TrainingSet:
    """Make an object-level training set; each image's neighbours are the next ones, their pairs drawn at random."""
    rois = []
    for number, path in enumerate(files):
        image = decode(path.read_bytes(), _MAX_PIXELS)
        proposals = rank(propose(image, "fast"), 0, number)
        rois.append(filter_rois(proposals.boxes, image.shape[1], image.shape[0], config.Rois()).boxes)
        print(f"RoIs of {number + 1} of {len(files)} photographs", file=sys.stderr, flush=True)
    with TrainingSetWriter(folder, _MAX_PIXELS) as writer:
        for number, path in enumerate(files):
            count = max(1, len(rois[number]) // 10)
            rows = []
            for step in range(1, _NEIGHBORS + 1):
                neighbor = (number + step) % len(files)
                one, other = (_drawn(rois[image], count, number, step) for image in (number, neighbor))
                rows.append((neighbor, one, other))
            writer.add(number, path.read_bytes(), rois[number], rows)
    return TrainingSet.open(folder)


def _keeping(training_set: TrainingSet, folder: Path) -> TrainingSet:
    """Copy a training set, so that it keeps decoded images."""
    shutil.copytree(training_set.folder, folder)
    (folder / DECODED).mkdir()
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    (folder / META).write_text(json.dumps(meta | {"decoded_bytes": 10**12}), encoding="utf-8")
    return TrainingSet.open(folder)


def _drawn(boxes: NDArray[np.int32], count: int, number: int, step: int) -> NDArray[np.int32]:
    chosen = draws.integers(draws.stream(0, "pairs", number, step), np.arange(count), len(boxes))
    drawn: NDArray[np.int32] = boxes[chosen]
    return drawn


def _compare(
    training_set: TrainingSet, decoded: TrainingSet, stage: str, terms: tuple[str, ...], options: argparse.Namespace
) -> dict[str, Any]:
    patch = 96 if INTER in terms else 0
    recipe = PilRecipe(training_set, 224, patch)
    ours = ViewMaker(training_set, 0, stage, terms, 224, patch)
    kept = ViewMaker(decoded, 0, stage, terms, 224, patch)
    reduced = ViewMaker(training_set, 0, stage, terms, 224, patch, decode_margin=options.margin)
    sides = {side: Seconds() for side in SIDES}
    _pil_block(recipe, [0], Seconds())  # the first call of each side loads libraries
    _our_block(ours, 0, [0], Seconds())
    _our_block(kept, 0, list(range(len(decoded))), Seconds())  # keeps every image
    differences: list[float] = []
    for lap in range(options.rounds):
        for start in range(0, len(training_set) - _BLOCK + 1, _BLOCK):
            positions = list(range(start, start + _BLOCK))
            _pil_block(recipe, positions, sides["pil"])
            whole = _our_block(ours, lap, positions, sides["ours"])
            if any(
                _difference(a, b) for a, b in zip(whole, _our_block(kept, lap, positions, sides["kept"]), strict=True)
            ):
                raise RuntimeError("views of images that were kept must be the same")
            smaller = _our_block(reduced, lap, positions, sides["reduced"])
            differences += [_difference(one, other) for one, other in zip(whole, smaller, strict=True)]
    result = {side: _speeds(seconds, sides["pil"]) for side, seconds in sides.items()}
    result["reduced"]["mean_difference"] = round(float(np.mean(differences)), 3)
    result["reduced"]["decoded_smaller"] = round(_share_reduced(reduced, options.rounds), 3)
    return result


def _pil_block(recipe: PilRecipe, positions: list[int], seconds: Seconds) -> None:
    samples = _timed(lambda: [recipe.sample(position) for position in positions], seconds.host)

    def on_device() -> None:
        for views in zip(*samples, strict=True):
            normalise(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255)

    _timed(on_device, seconds.device)


def _our_block(maker: ViewMaker, lap: int, positions: list[int], seconds: Seconds) -> list[Crops]:
    samples = _timed(lambda: [maker.crops(lap, position) for position in positions], seconds.host)

    _timed(lambda: _augment(maker, samples, lap, positions, augment), seconds.device)
    return samples


def _augment(
    maker: ViewMaker,
    samples: list[Crops],
    lap: int,
    positions: list[int],
    operation: Callable[[Tensor, Parameters], Tensor],
) -> None:
    parameters = maker.parameters([LapSamples(lap, np.array(positions))])
    for term in maker.terms:
        for view in (0, 1):
            images = torch.from_numpy(np.stack([sample[term][view] for sample in samples])).permute(0, 3, 1, 2)
            operation(images, parameters[term][view])


def _timed(work: Callable[[], _T], seconds: list[float]) -> _T:
    started = time.process_time()
    result = work()
    seconds.append(time.process_time() - started)
    return result


def _difference(one: Crops, other: Crops) -> float:
    pairs = [(a, b) for term in one for a, b in zip(one[term], other[term], strict=True)]
    return float(np.mean([np.abs(a.astype(np.int16) - b).mean() for a, b in pairs]))


def _share_reduced(maker: ViewMaker, rounds: int) -> float:
    """Return the share of decoded images that decode at a smaller size."""
    reductions = []
    for lap in range(rounds):
        for position in range(len(maker.training_set)):
            cuts = [cut for pair in maker.cuts(lap, position).values() for cut in pair]
            of_images = [[cut for cut in cuts if cut.position == image] for image in {cut.position for cut in cuts}]
            reductions += [reduction_for(of_image, maker.decode_margin) for of_image in of_images]
    return float(np.mean(np.array(reductions) > 1))


def _speeds(seconds: Seconds, pil: Seconds) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for suffix, own, theirs in (
        ("", np.array(seconds.host), np.array(pil.host)),
        ("_end_to_end", np.add(seconds.host, seconds.device), np.add(pil.host, pil.device)),
    ):
        ratios = theirs / own
        result[f"samples_a_second{suffix}"] = round(_BLOCK * len(own) / float(own.sum()), 1)
        result[f"times_pil{suffix}"] = round(float(np.median(ratios)), 2)
        result[f"times_pil_range{suffix}"] = [round(float(ratios.min()), 2), round(float(ratios.max()), 2)]
    return result


def _pieces(training_set: TrainingSet) -> dict[str, Any]:
    maker = ViewMaker(training_set, 0, "object_level", STAGES["object_level"], 224, 96)
    positions = list(range(len(training_set)))
    cost: dict[str, list[float]] = {name: [] for name in ("pillow", "known", "cut_pillow", "cut_torch")}
    differences = []
    for position in positions:
        data = training_set.image_bytes(position)
        image = _timed(partial(decode, data, _MAX_PIXELS), cost["pillow"])
        _timed(partial(decode_known, data, _MAX_PIXELS), cost["known"])
        box = maker.cuts(0, position)[GLOBAL][0].box
        one = _timed(partial(pillow_crop_resize, image, box, 224), cost["cut_pillow"])
        other = _timed(partial(crop_resize, image, box, 224), cost["cut_torch"])
        differences.append(np.abs(one.astype(np.int16) - other))
    samples = [maker.crops(0, position) for position in positions[:_BLOCK]]
    augmenting: dict[str, list[float]] = {"batched": [], "kernel": []}
    for name, operation in (("batched", augment_on_device), ("kernel", augment)):
        _augment(maker, samples, 0, positions[:_BLOCK], operation)  # the first call compiles, or allocates
        _timed(partial(_augment, maker, samples, 0, positions[:_BLOCK], operation), augmenting[name])
    return {
        "decode_ms": {name: _mean_ms(cost[name], 1) for name in ("pillow", "known")},
        "cut_ms": {name: _mean_ms(cost[f"cut_{name}"], 1) for name in ("pillow", "torch")},
        "cut_difference": {"mean": round(float(np.mean(differences)), 3), "largest": int(np.max(differences))},
        "augment_ms": {name: _mean_ms(seconds, _BLOCK) for name, seconds in augmenting.items()},
    }


def _mean_ms(seconds: list[float], items: int) -> float:
    return round(1000 * float(np.mean(seconds)) / items, 2)


def _loaders(training_set: TrainingSet, count: int, rounds: int) -> dict[str, Any]:
    """Time threads and processes in turn; and, on one thread, the draws of a sample, which hold Python's lock."""
    maker = ViewMaker(training_set, 0, "object_level", STAGES["object_level"], 224, 96)
    stream = SampleStream(0, "object_level", len(training_set), _BLOCK)
    rates: dict[str, list[float]] = {"threads": [], "processes": []}
    for _ in range(rounds):
        for name, found in rates.items():
            shares, processes = map(Share, range(_LOADED + 1)), count if name == "processes" else 0
            with closing(view_batches(maker, stream, shares, threads=count, processes=processes)) as batches:
                next(batches)
                started = time.perf_counter()
                found.append(_BLOCK * sum(1 for _ in batches) / (time.perf_counter() - started))
    draw: list[float] = []
    _timed(lambda: [maker.cuts(0, position) for position in range(len(training_set))], draw)
    medians = {f"{name}_samples_a_second": round(float(np.median(found)), 1) for name, found in rates.items()}
    return {"count": count, **medians, "draws_ms_a_sample": round(1000 * draw[0] / len(training_set), 2)}


if __name__ == "__main__":
    sys.exit(main())
