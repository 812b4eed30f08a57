"""How near the embedding of RoIs comes to the bare network, and what RoIAlign saves and changes.

``python -m benchmarks.embedding --images FOLDER [--limit 24] [--backbone resnet50] [--batch-size 32] [--block 6]
[--weights FILE] [--align] [name=value ...]`` packs N photographs, searches and filters their RoIs and splits them into
blocks, all by the stages' own functions, in one process on one thread. Then, block by block in turn:

- the stage ``roi_embeddings`` makes the block's part: reads, decodes, crops, forwards, writes;
- the bare network takes ready tensors: as many batches of the same size as the stage's;
- with ``--align``, the stage makes the part again with ``embeddings.roi_mode=align``.

The last line is a JSON object, of CPU seconds:

- ``share_of_bare_forward``: seconds a crop of the bare network over those of the stage, medians of the blocks' ratios
  (range beside it). Rows that only fill the last batch up count on both sides: a part of the store has thousands of
  RoIs, a block here some hundreds; ``padding`` says how many.
- ``images_per_second``, ``rois_per_second``: of the stage, all blocks together. ``rois``, ``forwards``: from the
  records.
- ``crop_ms``: milliseconds of one crop, by Pillow (what the CPU does) and by the tensors that a GPU resizes, here on
  the CPU; ``crops_differ``: pixels in which the two differ.
- ``align_speedup``: stage seconds in mode crop over align, median. ``align_cosine_mean``: of a RoI's two vectors;
  ``align_cosine_shuffled``: the same where RoIs of an image are exchanged, as vectors of one network are alike anyway.
  ``align_pair_overlap``: the share of the RoI pairs in mode crop that mode align finds too, between each photograph and
  the ``--neighbors`` photographs whose mean vectors are nearest; as many pairs as ``mining.pair_ratio`` says.

Without ``--weights`` (safetensors of a training, or of a backbone with torchvision's names) the network is untrained:
speeds stay the same, and what RoIAlign changes then says little.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from orl_ray import schema
from orl_ray.columns import box_lists_of, vectors_of
from orl_ray.config import Config
from orl_ray.embeddings.device_crops import crop_resize_all
from orl_ray.embeddings.encoder import WEIGHTS, FrozenEncoder
from orl_ray.embeddings.stages import embed_rois, prepare_roi_encoder
from orl_ray.embeddings.vectors import colours
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.graph import main_job
from orl_ray.mining.matching import match, pair_count
from orl_ray.part_runner import PartWorker, WorkerContext, prepare_nothing
from orl_ray.pipeline import plan
from orl_ray.proposals.stages import filter_part, propose_part
from orl_ray.scenes.decode import crop_resize
from orl_ray.scenes.listing import write_listing
from orl_ray.scenes.packing import pack_part
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.scenes.stages import describe_part
from orl_ray.settings import load
from orl_ray.storage import TABLE, PartRecord, Store, parquet_bytes

_PREFIX = "online.backbone."
_STAGES = {"packed_scenes": pack_part, "scenes": describe_part, "proposals": propose_part, "rois": filter_part}


@dataclass(slots=True)
class Sides:
    """CPU seconds of each block on each side."""

    stage: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    align: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--limit", type=int, default=24, help="photographs, the first by name")
    parser.add_argument("--block", type=int, default=6, help="photographs a block")
    parser.add_argument("--backbone", choices=("resnet18", "resnet50"), default="resnet50")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--weights", type=Path, help="safetensors of a trained network")
    parser.add_argument("--align", action="store_true", help="compare with RoIAlign, too")
    parser.add_argument("--neighbors", type=int, default=5, help="photographs whose RoIs are paired with each one's")
    parser.add_argument("settings", nargs="*", metavar="name=value")
    options = parser.parse_intermixed_args()
    files = sorted(path for path in options.images.iterdir() if path.is_file())[: options.limit]
    if not files:
        parser.error(f"{options.images} holds no files")
    with tempfile.TemporaryDirectory(prefix="orl-embedding-") as name:
        folder = Path(name)
        (folder / "photographs").mkdir()
        for path in files:
            shutil.copy2(path, folder / "photographs" / path.name)
        config, store = _config(folder, options), Store(str(folder / "store"))
        manifests = _make_rois(config, store, options.weights)
        result = {"backbone": options.backbone, "batch_size": options.batch_size, "trained": bool(options.weights)}
        result |= _measure(config, store, manifests, align=options.align, neighbors=options.neighbors)
    print(json.dumps(result))
    return 0


def _config(folder: Path, options: argparse.Namespace) -> Config:
    settings = [f"execution.store={folder}/store", "source.kind=folder", f"source.images={folder}/photographs"]
    settings += [
        f"source.part_size={options.block}",
        "mining.shards=1",
        "mining.k=1",
        f"encoder.backbone={options.backbone}",
    ]
    settings += [f"embeddings.batch_size={options.batch_size}"]
    return load("coco", None, [*settings, *options.settings])


def _make_rois(config: Config, store: Store, weights: Path | None) -> dict[str, str]:
    """Make all that ``roi_embeddings`` reads; return artifact -> key of its manifest."""
    store.prepare()
    for name, process in _STAGES.items():
        if name == "packed_scenes":
            listing = next(entry for entry in plan(config, main_job(), store) if entry.stage.name == "listing")
            store.write_manifest("listing", listing.key, write_listing(config, store, listing.key))
        wanted = next(entry for entry in plan(config, main_job(), store) if entry.stage.name == name)
        worker = PartWorker(name, process, prepare_nothing, WorkerContext(config, store, wanted.manifests))
        for part in wanted.missing:
            worker({"index": part.index, "key": part.key, "inputs": json.dumps(part.inputs)})
            print(f"{name}: part {part.index + 1} of {len(wanted.wanted)}", file=sys.stderr, flush=True)
        records = [store.record(name, part.key) for part in wanted.wanted]
        store.write_manifest(name, wanted.key, [record for record in records if record is not None])
    record = store.write_part("image_level", "weights", 0, {WEIGHTS: save(_weights(config, weights))}, rows=0)
    store.write_manifest("image_level", "weights", [record])
    return {"image_level": "weights"}


def _weights(config: Config, path: Path | None) -> dict[str, torch.Tensor]:
    if path is not None:
        found = load_file(path)
        trained = {name: tensor for name, tensor in found.items() if name.startswith(_PREFIX)}
        return trained or {_PREFIX + name: tensor for name, tensor in found.items()}
    backbone = build_backbone(config.encoder.backbone)
    initialise(backbone, config.seed, "image_level", "backbone")
    return {_PREFIX + name: tensor for name, tensor in backbone.state_dict().items()}


def _measure(config: Config, store: Store, manifests: dict[str, str], *, align: bool, neighbors: int) -> dict[str, Any]:
    rois = next(entry for entry in plan(config, main_job(), store) if entry.stage.name == "rois")
    other = replace(config, embeddings=replace(config.embeddings, roi_mode="align"))
    workers = {
        mode: PartWorker("roi_embeddings", embed_rois, prepare_roi_encoder, WorkerContext(changed, store, manifests))
        for mode, changed in {"crop": config, **({"align": other} if align else {})}.items()
    }
    encoder: FrozenEncoder = workers["crop"].state
    ready = torch.rand((config.embeddings.batch_size, *[config.embeddings.roi_size] * 2, 3)) * 255
    tensors = colours(ready.to(torch.uint8))
    with torch.inference_mode():
        encoder(tensors)  # the first pass allocates
    records: dict[str, list[PartRecord]] = {mode: [] for mode in workers}
    sides = Sides()
    for block, scenes in enumerate(rois.records):
        inputs = _inputs(store, scenes, block, rois.wanted[block].inputs)
        for mode in ("crop", "align") if align else ("crop",):
            seconds = _timed(workers[mode], {"index": block, "key": f"{mode}-{block}", "inputs": json.dumps(inputs)})
            (sides.stage if mode == "crop" else sides.align).append(seconds)
            record = store.record("roi_embeddings", f"{mode}-{block}")
            records[mode] += [record] if record else []
        facts = records["crop"][-1].facts
        batches = (facts["forwards"] + facts["padding"]) // len(tensors)
        sides.bare.append(_bare_seconds(encoder, tensors, batches))
        print(f"block {block + 1} of {len(rois.records)}: {facts}", file=sys.stderr, flush=True)
    result = _speeds(sides, records["crop"])
    result |= _crop_costs(config, store, rois.records[0], rois.wanted[0].inputs["scenes"])
    if align:
        result["align_speedup"] = round(median(np.array(sides.stage) / np.array(sides.align)), 2)
        result["align_forwards"] = sum(record.facts["forwards"] for record in records["align"])
        result |= _fidelity(config, store, records, neighbors)
    return result


def _inputs(store: Store, rois: PartRecord, block: int, inputs: dict[str, str]) -> dict[str, str]:
    ids = store.read_table("rois", rois.key)["image_id"].combine_chunks()
    shards = pa.table([ids, pa.array(np.zeros(len(ids)), pa.int32())], schema=schema.SHARDS)
    written = store.write_part("shards", f"block-{block}", block, {TABLE: parquet_bytes(shards)}, rows=len(ids))
    return {"scenes": inputs["scenes"], "rois": rois.key, "shards": written.key}


def _timed(worker: PartWorker, row: dict[str, Any]) -> float:
    started = time.process_time()
    worker(row)
    return time.process_time() - started


def _bare_seconds(encoder: FrozenEncoder, tensors: torch.Tensor, batches: int) -> float:
    started = time.process_time()
    with torch.inference_mode():
        for _ in range(batches):
            encoder(tensors)
    return time.process_time() - started


def _speeds(sides: Sides, records: list[PartRecord]) -> dict[str, Any]:
    ratios = np.array(sides.bare) / np.array(sides.stage)
    total = {name: sum(record.facts[name] for record in records) for name in ("rois", "forwards", "padding")}
    return {
        "share_of_bare_forward": round(float(np.median(ratios)), 3),
        "share_range": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        "blocks": len(ratios),
        "images": sum(record.rows for record in records),
        "images_per_second": round(sum(record.rows for record in records) / sum(sides.stage), 3),
        "rois_per_second": round(total["rois"] / sum(sides.stage), 2),
        "bare_ms_a_crop": round(1000 * sum(sides.bare) / (total["forwards"] + total["padding"]), 2),
        **total,
    }


def _crop_costs(config: Config, store: Store, rois: PartRecord, scenes: str) -> dict[str, Any]:
    """Time the crops of a block by Pillow and by tensors, and count the pixels in which they differ."""
    table, side = store.read_table("rois", rois.key), config.embeddings.roi_size
    boxes = dict(zip(table["image_id"].to_pylist(), box_lists_of(table, "boxes"), strict=True))
    seconds, differ, crops = {"pillow": 0.0, "tensors": 0.0}, 0, 0
    for image_id, image in decoded_scenes(store, scenes, config.source.max_pixels):
        started = time.process_time()
        one = np.stack([crop_resize(image, box, side) for box in boxes[image_id]])
        between = time.process_time()
        other = crop_resize_all(torch.from_numpy(image), boxes[image_id], side).numpy()
        seconds["tensors"] += time.process_time() - between
        seconds["pillow"] += between - started
        differ, crops = differ + int((one != other).sum()), crops + len(one)
    return {
        "crop_ms": {name: round(1000 * value / crops, 2) for name, value in seconds.items()},
        "crops_differ": differ,
    }


def _fidelity(config: Config, store: Store, records: dict[str, list[PartRecord]], neighbors: int) -> dict[str, Any]:
    """Compare the vectors of both modes, and the RoI pairs that follow from them."""
    crop, align = (_by_image(store, records[mode]) for mode in ("crop", "align"))
    cosines = [_cosines(crop[i], align[i]) for i in crop]
    shuffled = [_cosines(crop[i], np.roll(align[i], 1, axis=0)) for i in crop if len(crop[i]) > 1]
    means = np.array([vectors.astype(np.float64).mean(axis=0) for vectors in crop.values()])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest = np.argsort(-(means @ means.T - 2 * np.eye(len(means))), axis=1, kind="stable")[:, :neighbors]
    ids, shared, pairs = list(crop), 0, 0
    for query, row in zip(ids, nearest, strict=True):
        count = pair_count(len(crop[query]), config.mining.pair_ratio)
        for neighbor in (ids[position] for position in row if ids[position] != query):
            found = [match(side[query], side[neighbor], count) for side in (crop, align)]
            one, other = (set(zip(p.query_index.tolist(), p.neighbor_index.tolist(), strict=True)) for p in found)
            shared, pairs = shared + len(one & other), pairs + len(one)
    return {
        "align_cosine_mean": round(float(np.concatenate(cosines).mean()), 4),
        "align_cosine_shuffled": round(float(np.concatenate(shuffled).mean()), 4) if shuffled else None,
        "align_pair_overlap": round(shared / pairs, 4) if pairs else None,
        "pairs": pairs,
    }


def _by_image(store: Store, records: list[PartRecord]) -> dict[int, NDArray[np.float16]]:
    found: dict[int, NDArray[np.float16]] = {}
    for record in records:
        table = store.read_table("roi_embeddings", record.key, schema.shard_file(0))
        ids, vectors = table["image_id"].to_numpy(), vectors_of(table)
        found |= {int(image_id): vectors[ids == image_id] for image_id in np.unique(ids)}
    return found


def _cosines(one: NDArray[np.float16], other: NDArray[np.float16]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = (one.astype(np.float64) * other.astype(np.float64)).sum(axis=1)
    return products


if __name__ == "__main__":
    sys.exit(main())
