"""Our selective search beside OpenCV's on the same photographs: time, boxes, agreement, and the objects they find.

``python -m benchmarks.selective_search --annotations COCO.json --images FOLDER [--limit N] [--mode fast|half|quality]``
draws N annotated photographs by ``--seed`` and searches each by both, one after the other on one thread, ours first on
every other photograph. Progress goes to stderr; the last line of stdout is a JSON object:

- ``speedup_median``, ``speedup_range``: OpenCV's seconds over ours, a photograph each. ``seconds_ours``,
  ``seconds_opencv``: medians. These are CPU seconds of all threads of the process, which other load on the machine
  disturbs less than wall time. Neither side's first search counts.
- ``boxes_ours``, ``boxes_opencv``: means. ``agreement_exact``, ``agreement_iou90``: the share of OpenCV's boxes that
  are among ours, exactly, or with an IoU of at least 0.9.
- ``recall_…``: the share of objects, crowds left out, that a box finds with an IoU of at least 0.5: by ``all`` boxes,
  and by the first 100, 500, 1,000 and 2,000 in seeded order. ``recall_rois_…``: the same after the RoI filter with its
  default settings: of ``all`` objects, and of the ``large`` ones, at least 96 pixels on both sides.
- ``differences``: ours minus OpenCV's recall, with a 95 % bootstrap interval over photographs.
- ``compile_seconds``: what a process with an empty cache of compiled code takes longer until its first search is done
  than one with a full cache, which takes ``first_search_seconds``; ``peak_mb_above_idle`` of both sides: see
  ``benchmarks.search_cost``. Left out with ``--no-costs``.

Against ``half``, OpenCV searches in its fast mode at native size.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.both_searches import MODES, SIDES, Boxes, Photograph, search_of
from benchmarks.proposal_recall import NEVER, agreement, first_hits, paired_difference, recall, rounded
from benchmarks.search_cost import measured
from orl_ray import draws
from orl_ray.config import Rois
from orl_ray.proposals.modes import Mode
from orl_ray.proposals.roi_filter import filter_rois
from orl_ray.scenes.decode import decode

BUDGETS = (100, 500, 1000, 2000)
LARGE = 96


@dataclass(frozen=True, slots=True)
class Scene:
    """A photograph and its objects.

    Attributes:
        image_id: its id.
        path: its file.
        objects: (m, 4) float64 xywh, crowds left out.
    """

    image_id: int
    path: Path
    objects: NDArray[np.float64]

    def decoded(self) -> Photograph:
        """Read the photograph."""
        return decode(self.path.read_bytes(), 10**9)


@dataclass(slots=True)
class Tally:
    """What one side did, photograph by photograph.

    Attributes:
        seconds: CPU seconds of each search.
        boxes: how many it found.
        found: name of a recall -> for each photograph, which objects are found.
    """

    seconds: list[float] = field(default_factory=list)
    boxes: list[int] = field(default_factory=list)
    found: dict[str, list[NDArray[np.bool_]]] = field(default_factory=dict)

    def score(self, boxes: Boxes, scene: Scene, size: tuple[int, int]) -> None:
        """Note which objects of a scene ordered boxes find, in a photograph of (width, height)."""
        self.boxes.append(len(boxes))
        hits = first_hits(boxes, scene.objects)
        budgets = {"all": NEVER, **{str(budget): budget for budget in BUDGETS}}
        found = {f"recall.{name}": hits < budget for name, budget in budgets.items()}
        rois = first_hits(filter_rois(boxes, *size, Rois()).boxes, scene.objects) < NEVER
        found |= {"recall_rois.all": rois, "recall_rois.large": rois[(scene.objects[:, 2:] >= LARGE).all(axis=1)]}
        for name, objects in found.items():
            self.found.setdefault(name, []).append(objects)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--annotations", type=Path, required=True, help="a COCO JSON with boxes")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--limit", type=int, default=48, help="photographs, drawn by the seed")
    parser.add_argument("--mode", choices=MODES, default="fast")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the photographs, of the boxes' order and of the samples"
    )
    parser.add_argument("--samples", type=int, default=2000, help="bootstrap samples")
    parser.add_argument("--no-costs", action="store_true", help="leave out compile time and memory")
    options = parser.parse_args()
    scenes = drawn_scenes(options.annotations, options.images, options.limit, options.seed)
    if not scenes:
        parser.error("none of the annotated images is in the folder")
    tallies, agreed = _search_all(scenes, options.mode, options.seed)
    result: dict[str, Any] = {"mode": options.mode, "photographs": len(scenes), "seed": options.seed}
    result |= {"objects": sum(len(scene.objects) for scene in scenes), **_timing(tallies)}
    result |= {name: round(count / sum(tallies["opencv"].boxes), 5) for name, count in agreed.items()}
    result |= _recalls(tallies, options.samples, options.seed)
    if not options.no_costs:
        result |= _costs(scenes[0].path, options.mode)
    print(json.dumps(result))
    return 0


def drawn_scenes(annotations: Path, images: Path, limit: int, seed: int) -> list[Scene]:
    """Draw photographs that are annotated and there.

    Args:
        annotations: a COCO JSON; annotations with ``iscrowd`` are left out.
        images: the folder of its images.
        limit: how many at most.
        seed: of the draw.

    Returns:
        Scenes in drawn order, each with at least one object.
    """
    content = json.loads(annotations.read_bytes())
    objects: dict[int, list[list[float]]] = {}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd", 0):
            objects.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    files = {entry["id"]: images / entry["file_name"] for entry in content["images"] if entry["id"] in objects}
    ids = np.array([image_id for image_id, path in sorted(files.items()) if path.is_file()], np.int64)
    key = draws.stream(seed, "benchmark", "photographs")
    order = ids[np.argsort(draws.uniform(key, ids, 1)[:, 0], kind="stable")] if len(ids) else ids
    chosen = order[:limit].tolist()
    return [Scene(image_id, files[image_id], np.array(objects[image_id], np.float64)) for image_id in chosen]


def _search_all(scenes: list[Scene], mode: Mode, seed: int) -> tuple[dict[str, Tally], dict[str, int]]:
    """Search every scene by both sides; return what each did, and how many of OpenCV's boxes are among ours."""
    searches = {side: search_of(side, mode) for side in SIDES}
    tallies, agreed = {side: Tally() for side in SIDES}, {"agreement_exact": 0, "agreement_iou90": 0}
    for side in SIDES:  # compiles, allocates
        searches[side](scenes[0].decoded())(seed, 0)
    for number, scene in enumerate(scenes):
        image = scene.decoded()
        boxes: dict[str, Boxes] = {}
        for side in SIDES[:: 1 if number % 2 else -1]:
            started = time.process_time()
            ordered = searches[side](image)
            tallies[side].seconds.append(time.process_time() - started)
            boxes[side] = ordered(seed, scene.image_id)
            tallies[side].score(boxes[side], scene, (image.shape[1], image.shape[0]))
        for name, count in zip(agreed, agreement(boxes["ours"], boxes["opencv"]), strict=True):
            agreed[name] += count
        ours, theirs = (tallies[side].seconds[-1] for side in SIDES)
        print(
            f"{number + 1} of {len(scenes)}: {1000 * ours:.0f} ms, {1000 * theirs:.0f} ms", file=sys.stderr, flush=True
        )
    return tallies, agreed


def _timing(tallies: dict[str, Tally]) -> dict[str, Any]:
    ours, theirs = (np.array(tallies[side].seconds) for side in SIDES)
    ratios = theirs / ours
    return {
        "speedup_median": round(float(np.median(ratios)), 2),
        "speedup_range": [round(float(ratios.min()), 2), round(float(ratios.max()), 2)],
        **{f"seconds_{side}": round(float(np.median(tallies[side].seconds)), 4) for side in SIDES},
        **{f"boxes_{side}": round(float(np.mean(tallies[side].boxes)), 1) for side in SIDES},
    }


def _recalls(tallies: dict[str, Tally], samples: int, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for side in SIDES:
        for kind, names in _kinds(tallies[side]):
            values = {name.partition(".")[2]: recall(tallies[side].found[name]) for name in names}
            result[f"{kind}_{side}"] = rounded(values)
    pairs = {name: (tallies["ours"].found[name], tallies["opencv"].found[name]) for name in tallies["ours"].found}
    result["differences"] = {
        name: rounded(paired_difference(*pair, samples, seed)) for name, pair in pairs.items() if any(map(len, pair[0]))
    }
    return result


def _kinds(tally: Tally) -> Iterator[tuple[str, list[str]]]:
    for kind in ("recall", "recall_rois"):
        yield kind, [name for name in tally.found if name.partition(".")[0] == kind]


def _costs(photograph: Path, mode: str) -> dict[str, Any]:
    """Measure both sides in processes of their own; ours with an empty cache of compiled code, then with a full one."""
    with tempfile.TemporaryDirectory(prefix="orl-compiled-") as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        cold = measured(photograph, "ours", mode, environment)
        warm = measured(photograph, "ours", mode, environment)
        opencv = measured(photograph, "opencv", mode, environment)
    return {
        "compile_seconds": round(cold["first_seconds"] - warm["first_seconds"], 2),
        "first_search_seconds": warm["first_seconds"],
        "peak_mb_above_idle": {"ours": warm["peak_mb_above_idle"], "opencv": opencv["peak_mb_above_idle"]},
    }


if __name__ == "__main__":
    sys.exit(main())
