"""What global mining finds and costs: IVF-PQ with an exact re-ranking against exact scans of the same RoIs.

``python -m benchmarks.global_mining [--rois N] [--width D] [--alike M] [--queries Q]`` makes unit vectors, M of them
around each of some random directions, with noise as large as a direction. Where M is above the 100 candidates, nothing
but that noise tells the M apart, which is hard on a code. It fits the codebook, and searches the same queries in two
shards both ways, in turns, in one thread. Its last line is a JSON object: recall of the ten nearest, CPU milliseconds a
query of either, their ratio, and the CPU seconds of fitting and coding.
"""

import argparse
import json
import time

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from orl_ray.config import Mining
from orl_ray.mining.global_codebook import fit_codebook, list_count, nearest_lists
from orl_ray.mining.global_search import Found, RoiIndex, best_candidates, most_similar

ROIS_AN_IMAGE, SHARDS, TURNS = 50, 2, 4
SETTINGS = Mining(scope="global")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rois", type=int, default=100_000, help="RoIs of the collection")
    parser.add_argument("--width", type=int, default=512, help="numbers of a vector")
    parser.add_argument("--alike", type=int, default=500, help="RoIs around one direction")
    parser.add_argument("--queries", type=int, default=256, help="RoIs that are searched for")
    options = parser.parse_args()
    with threadpool_limits(1):
        print(json.dumps(measure(options.rois, options.width, options.alike, options.queries)))


def measure(rois: int, width: int, alike: int, queries: int) -> dict[str, float]:
    """Search both ways and compare.

    Args:
        rois: RoIs of the collection.
        width: numbers of a vector.
        alike: RoIs around one direction.
        queries: RoIs that are searched for.

    Returns:
        The figures by name.
    """
    vectors, ids = collection(rois, width, alike)
    started = time.process_time()
    sample = np.linspace(0, rois - 1, min(rois, 65_536)).astype(np.int64)
    codebook = fit_codebook(vectors[sample], list_count(rois, 0), SETTINGS.global_code_bytes, 0)
    fitted = time.process_time()
    boxes = np.zeros((rois, 4), np.int32)
    shards = [
        RoiIndex(vectors[mask], ids[mask], boxes[mask], ids[mask], codebook)
        for mask in (ids % SHARDS == shard for shard in range(SHARDS))
    ]
    coded = time.process_time()
    asked = np.linspace(0, rois - 1, queries).astype(np.int64)
    count, candidates = SETTINGS.global_neighbors, SETTINGS.global_candidates

    def approximate(rows: NDArray[np.int64]) -> Found:
        probes = nearest_lists(codebook, vectors[rows], SETTINGS.global_probes)
        found = [index.candidates(vectors[rows], ids[rows], probes, candidates) for index in shards]
        return most_similar([best_candidates(found, candidates)], count)

    def exact(rows: NDArray[np.int64]) -> Found:
        return most_similar([index.scan(vectors[rows], ids[rows], count) for index in shards], count)

    approximate(asked[:2])  # compiles
    seconds, hits = np.zeros(2), 0
    for rows in np.array_split(asked, TURNS):
        marks = [time.process_time()]
        near = approximate(rows)
        marks.append(time.process_time())
        wanted = exact(rows).similarities
        seconds += np.diff([*marks, time.process_time()])
        hits += int((near.similarities >= wanted[:, -1:]).sum())
    return {
        "rois": rois,
        "width": width,
        "alike": alike,
        "lists": len(codebook.centers),
        "code_bytes": SETTINGS.global_code_bytes,
        "recall": round(hits / (queries * count), 4),
        "ms_a_query": round(1000 * seconds[0] / queries, 3),
        "ms_a_query_exact": round(1000 * seconds[1] / queries, 3),
        "ratio": round(seconds[1] / seconds[0], 2),
        "fit_seconds": round(fitted - started, 1),
        "code_seconds": round(coded - fitted, 1),
    }


def collection(rois: int, width: int, alike: int) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Return unit vectors, ``alike`` of them around each of some directions, and their images' ids."""
    rng = np.random.default_rng(0)
    images, kinds = max(2, rois // ROIS_AN_IMAGE), max(1, rois // alike)
    directions = rng.normal(size=(kinds, width)).astype(np.float32)
    values = directions[rng.integers(0, kinds, rois)] + rng.normal(size=(rois, width)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype(np.float16), np.sort(rng.integers(0, images, rois))


if __name__ == "__main__":
    main()
