"""What pairing regions costs, and how many bytes of their vectors move a pair, with locality and without.

``python -m benchmarks.mining --store STORE [--k 10] [--ratio 0.2] [--pairing top] [--parts 1]`` takes the neighbours
and RoI vectors of the store's newest run. It starts a private Ray with two sets of the real shard actors: one on the
store's own shards, one on as many shards of the same sizes whose images are drawn at random. Part by part, or some
parts at once, both match the same neighbours, in turn, and must find the same pairs.

The last line is JSON. ``bytes_per_pair_local`` and ``bytes_per_pair_random`` are bytes of RoI vectors that went from
one process to another over pairs found, ``ratio`` the first over the second. ``saved_local`` and ``saved_random`` are
the shares of bytes that are saved because an image may also wait for its neighbours' vectors: counted, not run, against
images that always go to their neighbours. ``pairs_per_cpu_second`` counts the CPU seconds of the actors and of the
caller, once the actors are loaded.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import draws, schema
from orl_ray.mining.correspondence_stage import Matches, match_edges, where_rois_are
from orl_ray.mining.pair_moves import plan_calls
from orl_ray.mining.roi_shard_actor import RoiShardActor
from orl_ray.storage import Store, ipc_bytes

_RANDOM = "random"


@dataclass
class Side:
    """One layout of the shards: its actors, and what was counted of them."""

    actors: list[Any]
    processes: list[psutil.Process]
    pairs: int = 0
    bytes_moved: int = 0
    rois_moved: int = 0
    rois_if_images_move: int = 0
    seconds: float = 0.0
    edges: int = 0
    edges_between_shards: int = 0
    newest: Matches = field(default_factory=lambda: Matches([], [], [], 0))


def main() -> int:
    """Match all parts on both layouts and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument(
        "--k", type=int, default=10**9, help="neighbours an image at most; by default all that are stored"
    )
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--pairing", choices=("top", "mutual", "one_to_one"), default="top")
    parser.add_argument("--parts", type=int, default=1, help="parts of the store that are matched as one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import ray

    store = Store(options.store)
    stages = next(store.runs())["stages"]
    manifest, neighbors = stages["roi_embeddings"]["key"], stages["neighbors"]["key"]
    with tempfile.TemporaryDirectory(prefix="orl-mining-") as folder:
        shuffled = Store(folder)
        shards = write_shuffled(store, manifest, shuffled, options.seed)
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        try:
            sides = {"local": _start(store, manifest, shards), _RANDOM: _start(shuffled, _RANDOM, shards)}
            records = store.collection("neighbors", neighbors)
            for number, start in enumerate(range(0, len(records), options.parts)):
                keys = [record.key for record in records[start : start + options.parts]]
                edges = np.concatenate([edges_of(store.read_table("neighbors", key), options.k) for key in keys])
                for name in sorted(sides, reverse=bool(number % 2)):
                    _match(sides[name], edges, options.ratio, options.pairing)
                _require_same(*sides.values())
        finally:
            ray.shutdown()
    for name, side in sides.items():
        print(f"{name}: {side.edges:,} (image, neighbour), {side.seconds:.1f} CPU seconds")
    print(json.dumps(_summary(sides["local"], sides[_RANDOM], shards)))
    return 0


def write_shuffled(store: Store, manifest: str, shuffled: Store, seed: int) -> int:
    """Write the RoI vectors again with each image in a random shard, shards of the same sizes; return their number."""
    shuffled.prepare()
    records = store.collection("roi_embeddings", manifest)
    names = sorted(records[0].files)
    tables = [[store.read_table("roi_embeddings", record.key, name) for name in names] for record in records]
    owners = {
        image_id: shard
        for part in tables
        for shard, table in enumerate(part)
        for image_id in table["image_id"].unique().to_pylist()
    }
    ids, homes = np.array(sorted(owners)), np.array([owners[i] for i in sorted(owners)])
    drawn = np.argsort(draws.uniform(draws.stream(seed, "benchmark", "shards"), ids, 1)[:, 0], kind="stable")
    places = dict(zip(ids.tolist(), homes[drawn].tolist(), strict=True))
    written = []
    for record, part in zip(records, tables, strict=True):
        whole = pa.concat_tables(part)
        shards = np.array([places[i] for i in whole["image_id"].to_pylist()])
        files = {schema.shard_file(n): ipc_bytes(whole.filter(pa.array(shards == n))) for n in range(len(names))}
        written.append(shuffled.write_part("roi_embeddings", record.key, record.index, files, rows=record.rows))
    shuffled.write_manifest("roi_embeddings", _RANDOM, written)
    return len(names)


def edges_of(table: pa.Table, k: int) -> NDArray[np.int64]:
    """Return the (E, 2) ids of a part's images and their k nearest neighbours."""
    rows = table.select(["image_id", "neighbor_ids"]).to_pylist()
    pairs = [(row["image_id"], neighbor) for row in rows for neighbor in row["neighbor_ids"][:k]]
    return np.array(pairs, np.int64).reshape(-1, 2)


def moved_rois(edges: NDArray[np.int64], rois: NDArray[np.int64], shards: NDArray[np.int64]) -> int:
    """Count the RoIs that a plan of calls moves."""
    known = dict(zip(edges.ravel().tolist(), rois.ravel().tolist(), strict=True))
    return sum(known[i] for call in plan_calls(edges, shards, rois) for i in call.moved.tolist())


def _start(store: Store, manifest: str, shards: int) -> Side:
    import ray

    remote = ray.remote(num_cpus=0, allow_out_of_order_execution=True)(RoiShardActor)
    actors = [remote.remote(store, {"roi_embeddings": manifest}, shard, 1) for shard in range(shards)]
    pids = ray.get([actor.__ray_call__.remote(_process_id) for actor in actors])
    return Side(actors, [psutil.Process(pid) for pid in pids])


def _process_id(_actor: RoiShardActor) -> int:
    import os

    return os.getpid()


def _match(side: Side, edges: NDArray[np.int64], ratio: float, pairing: str) -> None:
    """Match a part as the stage does, and count."""
    before = sum(_seconds(side))
    counts, homes = where_rois_are(side.actors, edges.ravel())
    rois, shards = counts.reshape(-1, 2), homes.reshape(-1, 2)
    known = (rois > 0).all(axis=1)
    edges, rois, shards = edges[known], rois[known], shards[known]
    matches = match_edges(side.actors, edges, rois, shards, ratio, pairing)
    side.seconds += sum(_seconds(side)) - before
    side.pairs += sum(map(len, matches.similarities))
    side.bytes_moved += matches.bytes_moved
    side.rois_moved += moved_rois(edges, rois, shards)
    away = shards[:, 0] != shards[:, 1]
    side.edges += len(edges)
    side.edges_between_shards += int(away.sum())
    visits = np.unique(np.stack([edges[away, 0], shards[away, 1], rois[away, 0]], axis=1), axis=0)
    side.rois_if_images_move += int(visits[:, 2].sum())
    side.newest = matches


def _seconds(side: Side) -> Iterator[float]:
    for process in (psutil.Process(), *side.processes):
        times = process.cpu_times()
        yield times.user + times.system


def _require_same(one: Side, other: Side) -> None:
    for name in ("query_boxes", "neighbor_boxes", "similarities"):
        left, right = getattr(one.newest, name), getattr(other.newest, name)
        if not all(np.array_equal(a, b) for a, b in zip(left, right, strict=True)):
            raise RuntimeError("the two layouts found different pairs")


def _saved(side: Side) -> float:
    return round(1 - side.rois_moved / side.rois_if_images_move, 3) if side.rois_if_images_move else 0.0


def _summary(local: Side, random: Side, shards: int) -> dict[str, Any]:
    return {
        "bytes_per_pair_local": round(local.bytes_moved / local.pairs, 1),
        "bytes_per_pair_random": round(random.bytes_moved / random.pairs, 1),
        "ratio": round(local.bytes_moved / random.bytes_moved, 4),
        "saved_local": _saved(local),
        "saved_random": _saved(random),
        "between_shards_local": round(local.edges_between_shards / local.edges, 4),
        "between_shards_random": round(random.edges_between_shards / random.edges, 4),
        "pairs": local.pairs,
        "pairs_per_cpu_second": round(local.pairs / local.seconds),
        "pairs_per_cpu_second_random": round(random.pairs / random.seconds),
        "shards": shards,
    }


if __name__ == "__main__":
    sys.exit(main())
