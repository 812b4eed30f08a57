"""Pairs through the real actor class and the real part function: equal to brute force on every layout of shards."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from small_store import SMALL, LocalActor, SmallStore, stand_in_for_ray

from orl_ray import schema
from orl_ray.columns import box_column, list_column, vector_column, vectors_of
from orl_ray.config import Config
from orl_ray.mining.correspondence_stage import correspond_part
from orl_ray.mining.matching import pair_count
from orl_ray.mining.roi_shard_actor import RoiShardActor
from orl_ray.part_runner import WorkerContext
from orl_ray.pipeline import PartPlan
from orl_ray.storage import TABLE, Store, ipc_bytes, parquet_bytes

IMAGES, K, RATIO = 20, 5, 0.4


def unit(values):
    """Normalise rows and round them to float16."""
    values = np.asarray(values, np.float64)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def counts_of(rng):
    """Draw RoIs an image; one image has none."""
    counts = rng.integers(1, 14, IMAGES)
    counts[7] = 0
    return counts


def random_rois():
    rng = np.random.default_rng(1)
    return [unit(rng.normal(size=(n, 64))) if n else np.empty((0, 64), np.float16) for n in counts_of(rng)]


def tied_rois():
    """Return RoIs of which many are the same, in one image and over images."""
    rng = np.random.default_rng(2)
    few = unit(rng.choice([-1, 1], (5, 64)))
    return [few[rng.integers(0, 5, n)] for n in counts_of(rng)]


def photographed_rois(root, folder):
    """Embed RoIs of real photographs by an untrained ResNet-18."""
    images = sorted((root / "coco_dev" / "images").glob("*.jpg"))[:IMAGES]
    source = folder / "photographs"
    source.mkdir()
    for path in images:
        shutil.copy(path, source)
    ours = [value for value in SMALL if not value.startswith("generated.")]
    small = SmallStore.new(
        folder / "real",
        "source.kind=folder",
        f"source.images={source}",
        "proposals.max_side=200",
        "mining.shards=1",
        small=ours,
    )
    small.make("roi_embeddings")
    tables = [
        small.store.read_table("roi_embeddings", record.key, schema.shard_file(0))
        for record in small.records("roi_embeddings")
    ]
    table = pa.concat_tables(tables)
    ids, vectors = table["image_id"].to_numpy(), vectors_of(table)
    return [vectors[ids == i] for i in np.unique(ids)]


@pytest.fixture(scope="module", params=["random", "tied", pytest.param("photographed", marks=pytest.mark.real)])
def rois(request, tmp_path_factory):
    if request.param == "photographed":
        root = request.getfixturevalue("scenes_root")
        return photographed_rois(root, tmp_path_factory.mktemp("photographs"))
    return {"random": random_rois, "tied": tied_rois}[request.param]()


def boxes(image, count):
    """Return boxes that tell which RoI of which image they are."""
    return np.array([[image, place, 1, 1] for place in range(count)], np.int32).reshape(-1, 4)


def neighbor_ids(image):
    return [
        (image * 3 + step * step) % IMAGES for step in range(1, K + 1) if (image * 3 + step * step) % IMAGES != image
    ]


def brute_force(rois):
    """Sort every entry of every similarity matrix, in Python, by falling value and then by position."""
    rows = []
    for image in range(len(rois)):
        for rank, other in enumerate(neighbor_ids(image)):
            if not (len(rois[image]) and len(rois[other])):
                continue
            matrix = rois[image].astype(np.float64) @ rois[other].astype(np.float64).T + 0.0
            entries = sorted((-value, i, j) for (i, j), value in np.ndenumerate(matrix))
            best = entries[: pair_count(len(rois[image]), RATIO)]
            rows.append(
                {
                    "image_id": image,
                    "neighbor_id": other,
                    "rank": rank,
                    "rois": len(rois[image]),
                    "query_boxes": [[image, i, 1, 1] for _, i, _ in best],
                    "neighbor_boxes": [[other, j, 1, 1] for _, _, j in best],
                    "similarities": [-value for value, _, _ in best],
                }
            )
    return rows


def write(store, rois, shards):
    """Write neighbours and RoI vectors in three parts, the last without images; return (manifests, part plans)."""
    plans, records = [], []
    for index, images in enumerate((range(IMAGES // 2), range(IMAGES // 2, IMAGES), range(0))):
        near = [np.array(neighbor_ids(i)) for i in images]
        columns = [
            pa.array(images, pa.int64()),
            list_column(near, pa.int64()),
            list_column([np.zeros(len(ids)) for ids in near], pa.float64()),
        ]
        table = parquet_bytes(pa.table(columns, schema=schema.NEIGHBORS))
        store.write_part("neighbors", f"near-{index}", index, {TABLE: table}, rows=len(images))
        files = {}
        for shard in range(shards):
            own = [i for i in images if (i * 7 + i // 3) % shards == shard]
            ids = np.repeat(own, [len(rois[i]) for i in own]).astype(np.int64)
            vectors = np.concatenate([rois[0][:0], *(rois[i] for i in own)])
            all_boxes = np.concatenate([boxes(0, 0), *(boxes(i, len(rois[i])) for i in own)])
            columns = [pa.array(ids, pa.int64()), box_column(all_boxes), vector_column(vectors)]
            files[schema.shard_file(shard)] = ipc_bytes(
                pa.table(columns, schema=schema.roi_embeddings(vectors.shape[1]))
            )
        records.append(store.write_part("roi_embeddings", f"rois-{index}", index, files, rows=len(images)))
        plans.append(
            PartPlan(index, f"part-{index}", {"neighbors": f"near-{index}", "roi_embeddings": f"rois-{index}"})
        )
    store.write_manifest("roi_embeddings", "all", records)
    return {"roi_embeddings": "all"}, plans


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_pairs_equal_brute_force_on_any_number_of_shards_and_threads(rois, tmp_path, shards, threads):
    store = Store(tmp_path / "store")
    store.prepare()
    manifests, plans = write(store, rois, shards)
    mining = replace(Config().mining, ratio_max=RATIO, pair_ratio=RATIO, shards=shards)
    actors = [LocalActor(RoiShardActor(store, manifests, shard, threads)) for shard in range(shards)]
    context = WorkerContext(replace(Config(), mining=mining), store, manifests, {"actors": actors})
    found, images, pairs, moved = [], 0, 0, 0
    for plan in plans:
        with stand_in_for_ray():
            output = correspond_part(context, None, plan)
        store.write_part("correspondences", plan.key, plan.index, output.files, rows=output.rows)
        found += store.read_table("correspondences", plan.key).to_pylist()
        images, pairs, moved = (
            images + output.rows,
            pairs + output.facts["pairs"],
            moved + output.facts["bytes_moved"],
        )
    wanted = brute_force(rois)
    assert found == wanted
    assert images == sum(len(vectors) > 0 for vectors in rois)
    assert pairs == sum(len(row["similarities"]) for row in wanted)
    assert (moved == 0) == (shards == 1)
