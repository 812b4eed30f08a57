"""All of stage 2 against the published reference's scheme: forwards, CPU seconds, and whether the pairs are the same.

``python -m benchmarks.discovery --images FOLDER [--limit 100] [--queries 8] [--backbone resnet18] [name=value ...]``
takes N photographs, drawn by the seed. The main job proposes regions, which are inputs of both sides and not timed, and
an untrained encoder whose batch norm has seen 64 of the photographs stands where image-level training would be.

*Ours* is the main job's own: filter the proposals, embed images, fit and assign shards, search neighbours, embed RoIs,
match pairs, with Ray on one CPU and the default settings (20 neighbours, a fifth of the RoIs: more than the reference
makes; 10 and a tenth of it are compared). The CPU seconds of the driver, of Ray and of all workers count, from the line
that the first of these stages begins to the line that the last one is done, what workers import and load included.
Starting workers takes one to four CPU seconds a stage, whatever N: ``cpu_seconds_ours_by_stage`` shows it where a stage
has next to nothing to do, as ``shards``. It weighs the more, the fewer photographs there are.

*The reference* (:mod:`benchmarks.reference_scheme`) runs in this process with one thread, half of it before ours and
half after: the bank on all N photographs, then Q of them as queries. Its cost a query does not depend on N, but for the
search in the bank, which is no part of a second here; so it is scaled to all N, openly. ``scaled_by``: query images by
N / Q; matching by the ratio of the RoIs that it forwards for all queries, which are counted from its neighbours and RoI
counts, to those that it did forward.

The last line is JSON. ``forwards_…``: images and RoIs through the encoder, for all N. ``reuse_factor``: their ratio.
``speedup``: of CPU seconds. ``system_factor``: speedup over reuse factor, what crops, batches and Ray add or take.
``same_pairs``: of the reference's pairs of the timed queries, as (image, neighbour, box, box), the share that ours has,
too. ``shared``: where the scheme is given our stored vectors of images and RoIs, and has to give the same; ``apart``:
where each embeds by itself. ``passes``: 1, at least 0.99, and a speedup of at least 10; the exit status says the same.

``mining.skip_near_duplicates`` is off, as the reference has nothing like it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from benchmarks import reference_scheme as reference
from benchmarks.fresh_encoder import fresh_weights, write_in_place_of_training
from benchmarks.pair_controls import read_discovery
from benchmarks.pair_objects import Paired
from benchmarks.proposal_stage import CpuWatch
from benchmarks.stored_vectors import StoredVectors, read_stored_vectors
from orl_ray import draws
from orl_ray.columns import box_lists_of
from orl_ray.config import Config
from orl_ray.encoders.backbones import build_backbone
from orl_ray.encoders.heads import mlp_head
from orl_ray.encoders.normalisation import normalise
from orl_ray.encoders.weights import load_backbone
from orl_ray.graph import main_job
from orl_ray.scenes.decode import center_crop, resize_shorter
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.settings import load
from orl_ray.storage import Store

LEAST_SPEEDUP, LEAST_SAME_APART = 10, 0.99
_FIRST, _LAST = "rois", "correspondences"
_STATISTICS_IMAGES = 64
_SAMPLE_SECONDS = 0.2

PairKey = tuple[int, int, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Collection:
    """The photographs, by rising id.

    Attributes:
        ids: of the images.
        scenes: their files and proposals.
        sizes: pixels of what is embedded.
    """

    ids: list[int]
    scenes: list[reference.Scene]
    sizes: reference.Sizes


@dataclass(slots=True)
class ReferenceRun:
    """What the reference did.

    Attributes:
        bank: (N, D) vectors of all images.
        neighbors: query -> positions of its neighbours.
        matches: of the timed queries.
        roi_forwards: RoIs that were embedded for them.
        bank_seconds: CPU seconds of the bank.
        query_seconds: CPU seconds of embedding the timed queries again, and of their search.
        match_seconds: CPU seconds of everything else.
    """

    bank: Tensor
    neighbors: dict[int, list[int]] = field(default_factory=dict)
    matches: list[reference.Match] = field(default_factory=list)
    roi_forwards: int = 0
    bank_seconds: float = 0.0
    query_seconds: float = 0.0
    match_seconds: float = 0.0


def main() -> int:
    """Run both sides and print the factors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--limit", type=int, default=100, help="photographs, drawn by the seed")
    parser.add_argument("--queries", type=int, default=8, help="photographs that the reference is timed on")
    parser.add_argument("--backbone", choices=("resnet18", "resnet50"), default="resnet18")
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_intermixed_args()
    if options.limit <= reference.NEIGHBORS or not 2 <= options.queries <= options.limit:
        parser.error(f"--limit must exceed {reference.NEIGHBORS}, and --queries lie between 2 and --limit")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="orl-discovery-") as name:
        settings = [f"source.images={options.images}", f"source.limit={options.limit}", f"execution.store={name}/store"]
        settings += ["source.kind=folder", "execution.cpus=1", "mining.skip_near_duplicates=false"]
        settings += [f"encoder.backbone={options.backbone}", *options.settings]
        result = measure(load("coco", None, settings), settings, options.images, options.queries)
    print(json.dumps(result))
    return 0 if result["passes"] else 1


def measure(config: Config, settings: Sequence[str], images: Path, queries: int) -> dict[str, Any]:
    """Run both sides on one collection.

    Args:
        config: of the main job.
        settings: the same as ``name=value``.
        images: the folder of photographs.
        queries: how many of them the reference is timed on.

    Returns:
        The benchmark's figures.
    """
    store = Store(config.execution.store)
    _run_job("proposals", settings)
    weights = _weights(config, store)
    write_in_place_of_training(config, store, weights)
    collection = _collection(config, store, images)
    networks = reference_networks(config, weights)
    timed = _timed_queries(config.seed, collection.ids, queries)
    run = _start_reference(collection, networks[0])
    _continue_reference(run, collection, networks, timed[: queries // 2])
    seconds_ours = _run_job(_LAST, settings)
    _continue_reference(run, collection, networks, timed[queries // 2 :])
    stored = read_stored_vectors(store)
    own = {place: run.neighbors[place] for place in timed}
    theirs = {"apart": match_keys(run.matches, collection.ids)}
    theirs["shared"] = match_keys(_with_stored_vectors(collection, timed, stored), collection.ids)
    same = same_pairs(theirs, pair_keys(read_discovery(store).pairs))
    all_neighbors = reference.nearest_images(run.bank, run.bank)
    return {
        "images": len(collection.ids),
        "backbone": config.encoder.backbone,
        "rois": int(stored.counts.sum()),
        **factors(run, own, all_neighbors, stored.counts, seconds_ours, same),
    }


def factors(
    run: ReferenceRun,
    timed: Mapping[int, Sequence[int]],
    neighbors: Sequence[Sequence[int]],
    rois: np.ndarray[Any, np.dtype[np.int64]],
    ours: Mapping[str, float],
    same: Mapping[str, float],
) -> dict[str, Any]:
    """Scale the reference to all images and compare.

    Args:
        run: what the reference did.
        timed: query -> its neighbours, of the queries that it was timed on.
        neighbors: the neighbours of every image.
        rois: (N,) RoIs of every image.
        ours: stage -> CPU seconds of our side.
        same: the shares of equal pairs.
    """
    images = len(rois)
    all_rois = sum(int(rois[place] + rois[list(near)].sum()) for place, near in enumerate(neighbors))
    scaled_by = {"query_images": images / len(timed), "rois": all_rois / run.roi_forwards}
    seconds = run.bank_seconds + run.query_seconds * scaled_by["query_images"] + run.match_seconds * scaled_by["rois"]
    forwards_ours, forwards_reference = images + int(rois.sum()), 2 * images + all_rois
    reuse, speedup = forwards_reference / forwards_ours, seconds / sum(ours.values())
    passes = same["shared"] == 1 and same["apart"] >= LEAST_SAME_APART and speedup >= LEAST_SPEEDUP
    return {
        "forwards_ours": forwards_ours,
        "forwards_reference": forwards_reference,
        "reuse_factor": round(reuse, 2),
        "system_factor": round(speedup / reuse, 3),
        "speedup": round(speedup, 2),
        "same_pairs": {name: round(share, 5) for name, share in same.items()},
        "reference_queries": len(timed),
        "scaled_by": {name: round(factor, 2) for name, factor in scaled_by.items()},
        "cpu_seconds_ours": round(sum(ours.values()), 1),
        "cpu_seconds_ours_by_stage": {stage: round(spent, 1) for stage, spent in ours.items()},
        "cpu_seconds_reference": round(seconds, 1),
        "cpu_seconds_reference_timed": round(run.bank_seconds + run.query_seconds + run.match_seconds, 1),
        "passes": bool(passes),
    }


def pair_keys(pairs: Sequence[Paired]) -> set[PairKey]:
    """Return our pairs as (image, neighbour, box, box)."""
    return {
        (entry.query, entry.neighbor, tuple(query), tuple(neighbor))
        for entry in pairs
        for query, neighbor in zip(entry.query_boxes.tolist(), entry.neighbor_boxes.tolist(), strict=True)
    }


def match_keys(matches: Sequence[reference.Match], ids: Sequence[int]) -> set[PairKey]:
    """Return the reference's pairs as (image, neighbour, box, box), positions turned into ids."""
    return {(ids[match.query], ids[match.neighbor], *pair) for match in matches for pair in match.pairs}


def same_pairs(theirs: Mapping[str, set[PairKey]], ours: set[PairKey]) -> dict[str, float]:
    """Return, for each of the reference's sets of pairs, the share of it that ours holds."""
    return {name: len(pairs & ours) / len(pairs) for name, pairs in theirs.items()}


def reference_networks(config: Config, weights: Mapping[str, Tensor]) -> tuple[nn.Module, nn.Module]:
    """Build what the reference embeds images with, backbone and projector, and RoIs, the backbone: float32, plain."""
    backbone = build_backbone(config.encoder.backbone)
    load_backbone(backbone, weights, prefix="online.backbone.")
    projector = mlp_head(backbone.features, config.encoder.hidden, config.encoder.output)
    prefix = "online.projector."
    projector.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    images = backbone if config.mining.image_feature == "backbone" else nn.Sequential(backbone, projector)
    return images.eval(), backbone.eval()


def _start_reference(collection: Collection, network: nn.Module) -> ReferenceRun:
    started = time.process_time()
    run = ReferenceRun(reference.embed_images(collection.scenes, network, collection.sizes))
    run.bank_seconds = time.process_time() - started
    return run


def _continue_reference(
    run: ReferenceRun, collection: Collection, networks: tuple[nn.Module, nn.Module], queries: Sequence[int]
) -> None:
    """Time the reference on some queries, one after the other."""
    started = time.process_time()
    again = reference.embed_images([collection.scenes[place] for place in queries], networks[0], collection.sizes)
    run.neighbors.update(zip(queries, reference.nearest_images(again, run.bank), strict=True))
    searched = time.process_time()
    embed = reference.roi_vectors(collection.scenes, networks[1], collection.sizes)
    for place in queries:
        matches, forwards = reference.match_image(collection.scenes, place, run.neighbors[place], embed)
        run.matches.extend(matches)
        run.roi_forwards += forwards
        print(f"reference: query {place} done, {forwards} RoIs forwarded", file=sys.stderr, flush=True)
    run.query_seconds += searched - started
    run.match_seconds += time.process_time() - searched


def _with_stored_vectors(
    collection: Collection, queries: Sequence[int], stored: StoredVectors
) -> list[reference.Match]:
    """Let the reference match by our stored vectors, as exact as they are: float16 numbers as float64."""
    images = torch.from_numpy(stored.images.astype(np.float64))
    nearest = reference.nearest_images(images[list(queries)], images)

    def embed(place: int, boxes: reference.Boxes) -> Tensor:
        return torch.from_numpy(stored.rois_of(collection.ids[place], boxes).astype(np.float64))

    found = []
    for place, near in zip(queries, nearest, strict=True):
        found += reference.match_image(collection.scenes, place, near, embed)[0]
    return found


def _collection(config: Config, store: Store, images: Path) -> Collection:
    stages = next(store.runs())["stages"]
    parts = [store.collection(name, stages[name]["key"]) for name in ("scenes", "proposals")]
    rows: list[tuple[int, reference.Scene]] = []
    for scene_part, proposal_part in zip(*parts, strict=True):
        paths = store.read_table("scenes", scene_part.key, columns=["image_id", "path"]).to_pylist()
        table = store.read_table("proposals", proposal_part.key)
        boxes = dict(zip(table["image_id"].to_pylist(), box_lists_of(table, "boxes"), strict=True))
        for row in paths:
            proposals = [(x, y, width, height) for x, y, width, height in boxes[row["image_id"]].tolist()]
            rows.append((row["image_id"], reference.Scene(images / row["path"], proposals)))
    rows.sort(key=lambda row: row[0])
    sizes = reference.Sizes(config.embeddings.image_resize, config.embeddings.image_crop, config.embeddings.roi_size)
    return Collection([image_id for image_id, _ in rows], [scene for _, scene in rows], sizes)


def _timed_queries(seed: int, ids: Sequence[int], count: int) -> list[int]:
    """Draw the positions of the queries that the reference is timed on."""
    drawn = draws.uniform(draws.stream(seed, "benchmark", "queries"), np.array(ids, np.int64), 1)[:, 0]
    return [int(place) for place in np.argsort(drawn)[:count]]


def _weights(config: Config, store: Store) -> dict[str, Tensor]:
    """Make an untrained encoder; its batch norm takes its statistics from photographs."""
    record = store.collection("scenes", next(store.runs())["stages"]["scenes"]["key"])[0]
    ids = store.read_table("scenes", record.key, columns=["image_id"])["image_id"].to_pylist()[:_STATISTICS_IMAGES]
    side = config.embeddings.roi_size
    images = decoded_scenes(store, record.key, config.source.max_pixels, ids)
    crops = np.stack([center_crop(resize_shorter(image, side), side) for _, image in images])
    return fresh_weights(config, normalise(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255))


def _run_job(until: str, settings: Sequence[str]) -> dict[str, float]:
    """Run the main job; return the CPU seconds of all of its processes during each of discovery's stages.

    On one CPU they run one after the other.

    Raises:
        RuntimeError: the job failed.
    """
    job = Path(__file__).parents[1] / "jobs" / "full_pipeline.py"
    command = [sys.executable, str(job), "--preset", "coco", "--until", until, *settings]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603 -- our own job
    watch, ended = CpuWatch(psutil.Process(process.pid)), threading.Event()

    def keep_sampling() -> None:  # what has ended between two looks is not known
        while not ended.wait(_SAMPLE_SECONDS):
            watch.sample()

    sampler = threading.Thread(target=keep_sampling, daemon=True)
    sampler.start()
    titles = {f"{stage.title}: ": stage.name for stage in main_job()}
    marks: dict[str, dict[tuple[int, float], float]] = {}
    for line in process.stdout or ():
        print(line, end="", file=sys.stderr, flush=True)
        stage = next((name for title, name in titles.items() if line.startswith(title)), "")
        if stage == _FIRST and not marks:
            marks[""] = dict(watch.seen)
        elif marks and stage and ": done in " in line:
            marks[stage] = dict(watch.seen)
    ended.set()
    sampler.join()
    if process.wait():
        raise RuntimeError(f"the job ended with status {process.returncode}, see its lines")
    return {
        stage: sum(seconds - before.get(key, 0.0) for key, seconds in after.items())
        for (_, before), (stage, after) in pairwise(marks.items())
    }


if __name__ == "__main__":
    sys.exit(main())
