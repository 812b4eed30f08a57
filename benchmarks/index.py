"""What index actors take and give: speed against one faiss process, exactness, recall, memory.

``python -m benchmarks.index [--vectors 1000000 --width 256 --shards 4 --queries 10000]`` makes clustered vectors part
by part, writes them as the stages do, and lets the stages' own actors load and search them on a private Ray. Then it
does the same with every approximate kind on a smaller collection (``--approximate-vectors``). The last line is JSON:

- ``speed_ratio``: CPU-seconds of one faiss process (``faiss.knn``, as many threads as cores) over those of the actors
  and of merging, for the same queries; the two sides take turns, round by round;
- ``exact``: whether ids and similarities equal those of a float64 brute force, ties by id, on ``--checked`` queries;
- ``growth_over_float32`` and ``loading_peak_over_float32``: what each actor holds, after its searches and at most while
  it loads, over an idle actor that has imported faiss, in units of its vectors as float32; anonymous memory only, as
  files and shared memory that are mapped do not count;
- ``kinds``: of each approximate kind ``recall``, ``bytes_a_vector`` over an idle actor, and ``speed_ratio`` over exact
  actors on the same vectors.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import draws, schema
from orl_ray.columns import vector_column, vectors_of
from orl_ray.config import Config, Execution, Mining
from orl_ray.execution import StageRun
from orl_ray.mining.exact_search import Neighbors, merge_neighbors
from orl_ray.mining.image_index_actor import ImageIndexActor, IndexChoice, index_bytes
from orl_ray.mining.neighbor_stage import NEIGHBORS, recall_facts
from orl_ray.mining.shard_actors import shard_actors
from orl_ray.mining.shard_stages import assign_part, fit_shards, prepare_centroids
from orl_ray.part_runner import PartWorker, WorkerContext
from orl_ray.pipeline import StagePlan, State
from orl_ray.progress import Console, StageProgress
from orl_ray.ray_session import ray_session
from orl_ray.storage import TABLE, PartRecord, Store, parquet_bytes

K = 20
KINDS = ("ivf", "hnsw", "pq")
_IMAGES_A_CLUSTER = 500
_NOISE = 1.0  # length of what is added to a unit centre: clusters overlap
_SAMPLE_SECONDS = 0.02
_KEY = "benchmark"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        vectors: images of the collection.
        width: numbers of a vector.
        shards: index actors.
        queries: searched, in rounds.
        part: images a part, and queries a call.
        rounds: turns of the two sides.
        checked: queries that are compared with a brute force.
    """

    vectors: int
    width: int
    shards: int
    queries: int
    part: int
    rounds: int
    checked: int


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"vectors": 1_000_000, "width": 256, "shards": 4, "queries": 10_000, "part": 2048}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--checked", type=int, default=64)
    parser.add_argument("--approximate-vectors", type=int, default=50_000)
    parser.add_argument("--kinds", default=",".join(KINDS), help="approximate kinds, separated by commas")
    options = parser.parse_args()
    taken = (options.vectors, options.width, options.shards, options.queries, options.part)
    sizes = Sizes(*taken, options.rounds, options.checked)
    with own_ray():
        figures = measure_exact(sizes)
        print(json.dumps(figures), flush=True)
        smaller = Sizes(options.approximate_vectors, options.width, options.shards, 2000, 512, 1, options.checked)
        kinds = [kind for kind in options.kinds.split(",") if kind]
        figures["approximate_vectors"] = options.approximate_vectors
        figures["kinds"] = measure_kinds(smaller, kinds) if kinds else {}
    print(json.dumps(figures))


@contextlib.contextmanager
def own_ray() -> Iterator[None]:
    """Start a private Ray, whose workers import this module."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    os.environ.pop("RAY_ADDRESS", None)
    # Ray's workers are nicer than others by 15: on a busy machine they would be cut off more often than the reference.
    os.environ.update({"RAY_worker_niceness": "0"})
    with ray_session(Config(), "index"):
        yield


def measure_exact(sizes: Sizes) -> dict[str, Any]:
    """Compare exact actors with one faiss process and with a brute force.

    Args:
        sizes: how much.

    Returns:
        What the module says, but for ``kinds``.
    """
    with collection(sizes) as run, index_actors(run, sizes, IndexChoice()) as actors:
        queries = read_queries(run.store, sizes.queries)
        rounds = np.array_split(np.arange(len(queries[0])), sizes.rounds)
        with reference(run.store, sizes) as one_process:
            ours, theirs, found, overlap = 0.0, 0.0, [], []
            for rows in rounds:
                part = queries[0][rows], queries[1][rows]
                neighbors, seconds = search(actors, *part, sizes.part)
                found.append(neighbors)
                ours += seconds
                their_ids, seconds = one_process(part)
                theirs += seconds
                overlap.append(np.mean([len({*a} & {*b}) / K for a, b in zip(neighbors.ids, their_ids, strict=True)]))
        steady = actors.growth()
        joined = Neighbors(np.concatenate([n.ids for n in found]), np.concatenate([n.similarities for n in found]))
        exact = equals_brute_force(run.store, queries, joined, sizes)
    return {
        "vectors": sizes.vectors,
        "width": sizes.width,
        "shards": sizes.shards,
        "queries": len(queries[0]),
        "speed_ratio": round(theirs / ours, 3),
        "cpu_seconds": round(ours, 1),
        "cpu_seconds_one_process": round(theirs, 1),
        "same_as_one_process": round(float(np.mean(overlap)), 4),
        "exact": exact,
        "growth_over_float32": [round(steady[shard] / actors.vector_bytes[shard], 3) for shard in range(sizes.shards)],
        "loading_peak_over_float32": actors.loading_peaks,
        "shard_images": [size // (4 * sizes.width) for size in actors.vector_bytes],
    }


def measure_kinds(sizes: Sizes, kinds: list[str]) -> dict[str, dict[str, float]]:
    """Compare approximate kinds with exact actors on the same vectors.

    Args:
        sizes: how much.
        kinds: which.

    Returns:
        Kind -> ``recall``, ``bytes_a_vector``, ``speed_ratio``; of ``flat``, too.
    """
    figures: dict[str, dict[str, float]] = {}
    exact, exact_seconds = None, 0.0
    with collection(sizes) as run:
        queries = read_queries(run.store, sizes.queries)
        for kind in ("flat", *kinds):
            with index_actors(run, sizes, IndexChoice(kind)) as actors:
                found, seconds = search(actors, *queries, sizes.part)
                grown = sum(actors.growth())
            if exact is None:
                exact, exact_seconds = found, seconds
            facts = recall_facts(found, exact)
            figures[kind] = {
                "recall": round(facts["recall_found"] / facts["recall_wanted"], 4),
                "bytes_a_vector": round(grown / sizes.vectors),
                "speed_ratio": round(exact_seconds / seconds, 2),
            }
            print(kind, figures[kind], flush=True)
    return figures


@contextlib.contextmanager
def collection(sizes: Sizes) -> Iterator[StageRun]:
    """Write clustered vectors and their shards into a store of its own, as the stages do; yield a run over it."""
    with tempfile.TemporaryDirectory(prefix="orl-index-") as folder:
        store = Store(Path(folder) / "store")
        store.prepare()
        config = Config(mining=Mining(shards=sizes.shards), execution=Execution(store=str(store.root)))
        count = -(-sizes.vectors // sizes.part)
        starts = range(0, sizes.vectors, sizes.part)
        records = [write_vectors(store, index, start, sizes) for index, start in enumerate(starts)]
        store.write_manifest("image_embeddings", _KEY, records)
        fit_shards(config, store, _KEY, _KEY)
        context = WorkerContext(config, store, {"centroids": _KEY})
        worker = PartWorker("shards", assign_part, prepare_centroids, context)
        for index in range(count):
            inputs = json.dumps({"image_embeddings": f"{_KEY}-{index}"})
            worker({"index": index, "key": f"{_KEY}-{index}", "inputs": inputs})
        found = store.records("shards", [f"{_KEY}-{index}" for index in range(count)])
        store.write_manifest("shards", _KEY, list(found.values()))
        manifests = {"image_embeddings": _KEY, "shards": _KEY}
        plan = StagePlan(NEIGHBORS, State.RUN, "", manifests=manifests)
        cpus = os.cpu_count() or 1
        yield StageRun(config, store, plan, "index", cpus, StageProgress(Console(sys.stderr), "search", 1, "images"))


def write_vectors(store: Store, index: int, start: int, sizes: Sizes) -> PartRecord:
    """Draw and write one part: its ids are scattered over the collection, each near the centre that its id draws."""
    positions = np.arange(start, min(start + sizes.part, sizes.vectors))
    ids = np.sort(draws.permute(draws.stream(0, "benchmark", "ids"), positions, sizes.vectors))
    clusters = draws.integers(draws.stream(0, "benchmark", "cluster"), ids, max(1, sizes.vectors // _IMAGES_A_CLUSTER))
    centers = np.stack([np.random.default_rng(int(cluster)).normal(size=sizes.width) for cluster in clusters])
    noise = np.random.default_rng([index]).normal(size=centers.shape)
    values = centers + _NOISE * noise
    vectors = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    table = pa.table([pa.array(ids), vector_column(vectors)], schema=schema.image_embeddings(sizes.width))
    return store.write_part("image_embeddings", f"{_KEY}-{index}", index, {TABLE: parquet_bytes(table)}, rows=len(ids))


def read_parts(store: Store) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
    """Yield (ids, vectors) of each part."""
    for record in store.collection("image_embeddings", _KEY):
        table = store.read_table("image_embeddings", record.key)
        yield table["image_id"].to_numpy(), vectors_of(table)


def read_queries(store: Store, count: int) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Return (ids, vectors) of the first images."""
    ids: list[NDArray[np.int64]] = []
    vectors: list[NDArray[np.float16]] = []
    for part_ids, part_vectors in read_parts(store):
        ids.append(part_ids)
        vectors.append(part_vectors)
        if sum(map(len, ids)) >= count:
            break
    return np.concatenate(ids)[:count], np.concatenate(vectors)[:count]


class Idle:
    """An actor that has imported what an index actor imports, and holds nothing."""

    def __init__(self) -> None:
        import faiss

        importlib.import_module(ImageIndexActor.__module__)
        faiss.omp_set_num_threads(1)

    def ready(self) -> int:
        """Return the process id."""
        return os.getpid()


class Actors:
    """Index actors whose memory is watched.

    Attributes:
        handles: the actors.
        pids: their processes.
        vector_bytes: each one's vectors as float32.
        loading_peaks: most that each held while it loaded, over an idle actor, in units of ``vector_bytes``.
    """

    def __init__(self, handles: list[Any], idle: int, peaks: dict[int, int], width: int) -> None:
        import ray

        self.handles, self._idle = handles, idle
        self.pids: list[int] = ray.get([handle.__ray_call__.remote(_pid) for handle in handles])
        images = ray.get([handle.__ray_call__.remote(_images) for handle in handles])
        self.vector_bytes = [4 * width * count for count in images]
        self.loading_peaks = [
            round((peaks[pid] - idle) / size, 3) for pid, size in zip(self.pids, self.vector_bytes, strict=True)
        ]

    def growth(self) -> list[int]:
        """Return the bytes that each holds now, over an idle actor."""
        return [anonymous_bytes(pid) - self._idle for pid in self.pids]

    def cpu_seconds(self) -> float:
        """Return the CPU-seconds that they took so far."""
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return sum(taken.user + taken.system for taken in times)


def _pid(_actor: Any) -> int:
    return os.getpid()


def _images(actor: Any) -> int:
    return len(actor.index._shard.ids)  # noqa: SLF001 -- a look from outside


@contextlib.contextmanager
def index_actors(run: StageRun, sizes: Sizes, choice: IndexChoice) -> Iterator[Actors]:
    """Start the stage's own actors, and watch them while they load."""
    import ray

    watcher = ray.remote(num_cpus=0)(Idle).remote()
    idle = anonymous_bytes(ray.get(watcher.ready.remote()))
    ray.kill(watcher)
    memory = index_bytes(choice, -(-sizes.vectors // sizes.shards), sizes.width)
    loaded, peaks = threading.Event(), dict[int, int]()
    thread = threading.Thread(target=watch, args=(loaded, peaks), daemon=True)
    thread.start()
    with shard_actors(ImageIndexActor, run, run.plan.manifests, sizes.shards, memory, choice) as handles:
        ray.get([handle.__ray_call__.remote(_pid) for handle in handles])
        loaded.set()
        thread.join()
        yield Actors(handles, idle, peaks, sizes.width)


def watch(loaded: threading.Event, peaks: dict[int, int]) -> None:
    """Note the most anonymous memory of every index actor that this process started, until they are loaded."""
    own = psutil.Process()
    while not loaded.wait(_SAMPLE_SECONDS):
        for child in own.children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError, KeyError, IndexError):
                if "ImageIndexActor" in child.cmdline()[0]:
                    peaks[child.pid] = max(peaks.get(child.pid, 0), anonymous_bytes(child.pid))


def anonymous_bytes(pid: int) -> int:
    """Return a process's resident memory that no file and no shared memory is behind."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) * 1024


def search(actors: Actors, ids: NDArray[np.int64], vectors: NDArray[np.float16], batch: int) -> tuple[Neighbors, float]:
    """Search as the stage does, a batch a part; return neighbours and the CPU-seconds of actors and merging."""
    import ray

    before, merging = actors.cpu_seconds(), 0.0
    calls = []
    for start in range(0, len(ids), batch):
        query = ray.put(vectors[start : start + batch])
        part = ids[start : start + batch]
        calls.append([handle.search.remote(query, part, K) for handle in actors.handles])
    merged = []
    for call in calls:
        found = ray.get(call)
        started = time.thread_time()
        merged.append(merge_neighbors(found, K))
        merging += time.thread_time() - started
    joined = Neighbors(np.concatenate([n.ids for n in merged]), np.concatenate([n.similarities for n in merged]))
    return joined, actors.cpu_seconds() - before + merging


@contextlib.contextmanager
def reference(store: Store, sizes: Sizes) -> Iterator[Any]:
    """Start one faiss process that holds all vectors; yield a function of queries to (neighbours, CPU-seconds)."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # its threads shall not spin while they wait: that would count
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=reference_process, args=(there, store, sizes), daemon=True)
    process.start()

    def ask(queries: tuple[NDArray[np.int64], NDArray[np.float16]]) -> tuple[NDArray[np.int64], float]:
        here.send(queries[1])
        ids, seconds = here.recv()
        return ids, seconds

    here.recv()  # it has loaded
    try:
        yield ask
    finally:
        here.send(None)
        process.join()


def reference_process(pipe: Connection, store: Store, sizes: Sizes) -> None:
    """Hold all vectors as float32 and answer queries."""
    import faiss

    faiss.omp_set_num_threads(os.cpu_count() or 1)
    matrix, ids = np.empty((sizes.vectors, sizes.width), np.float32), np.empty(sizes.vectors, np.int64)
    start = 0
    for part_ids, vectors in read_parts(store):
        rows = slice(start, start + len(part_ids))
        matrix[rows], ids[rows], start = vectors, part_ids, rows.stop
    pipe.send(None)
    while (queries := pipe.recv()) is not None:
        started = time.process_time()
        # A query's own image is among them: one more than is wanted.
        _, positions = faiss.knn(queries.astype(np.float32), matrix, K + 1, metric=faiss.METRIC_INNER_PRODUCT)
        seconds = time.process_time() - started
        pipe.send((ids[positions], seconds))


def equals_brute_force(
    store: Store, queries: tuple[NDArray[np.int64], NDArray[np.float16]], found: Neighbors, sizes: Sizes
) -> bool:
    """Compare some queries with products of float64, part by part, and one sort of what they may come to."""
    rows = np.linspace(0, len(queries[0]) - 1, min(sizes.checked, len(queries[0]))).astype(int)
    wide = queries[1][rows].astype(np.float64)
    ids, scores = np.empty((len(rows), 0), np.int64), np.empty((len(rows), 0))
    for part_ids, vectors in read_parts(store):
        products = wide @ vectors.astype(np.float64).T
        products[part_ids == queries[0][rows, None]] = -np.inf
        ids = np.concatenate([ids, np.broadcast_to(part_ids, products.shape)], axis=1)
        scores = np.concatenate([scores, products], axis=1)
        order = np.lexsort((ids, -scores))[:, :K]
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    return bool((ids == found.ids[rows]).all() and (scores == found.similarities[rows]).all())


if __name__ == "__main__":
    main()
