"""The stage ``neighbors`` with each kind of index: what it finds, what it reports, what its actors ask for."""

import json
import sys
import types

import numpy as np
import pyarrow as pa
import pytest
from small_store import LocalActor, stand_in_for_ray

from orl_ray import schema
from orl_ray.columns import vector_column
from orl_ray.config import Config, Execution, Mining
from orl_ray.mining import neighbor_stage
from orl_ray.mining.approximate_search import ApproximateIndex
from orl_ray.mining.exact_search import ExactIndex, Neighbors
from orl_ray.mining.image_index_actor import ImageIndexActor, IndexChoice, index_bytes
from orl_ray.mining.neighbor_stage import gpu_share, recall, recall_facts, recall_rows, search_part
from orl_ray.mining.shard_vectors import shard_vectors
from orl_ray.part_runner import PartWorker, WorkerContext, prepare_nothing
from orl_ray.pipeline import PartPlan
from orl_ray.report.stages import _stage_row
from orl_ray.storage import TABLE, Store, StoreError, parquet_bytes

COUNT, LENGTH, PART, SHARDS = 5200, 16, 1300, 2
MANIFESTS = {"image_embeddings": "all", "shards": "all"}


def write(store, artifact, index, columns, table_schema):
    table = pa.table(columns, schema=table_schema)
    return store.write_part(artifact, f"p{index}", index, {TABLE: parquet_bytes(table)}, rows=len(table))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Return a store of clustered vectors in 4 parts and 2 shards, and its ids and vectors."""
    store = Store(tmp_path_factory.mktemp("collection") / "store")
    store.prepare()
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, LENGTH))[rng.integers(0, 60, COUNT)] + rng.normal(size=(COUNT, LENGTH))
    vectors = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    ids, records = rng.permutation(COUNT), {"image_embeddings": [], "shards": []}
    for index, start in enumerate(range(0, COUNT, PART)):
        ids[start : start + PART].sort()
        own = pa.array(ids[start : start + PART])
        columns = {
            "image_embeddings": [own, vector_column(vectors[start : start + PART])],
            "shards": [own, pa.array(rng.integers(0, SHARDS, PART), pa.int32())],
        }
        schemas = {"image_embeddings": schema.image_embeddings(LENGTH), "shards": schema.SHARDS}
        for name, written in records.items():
            written.append(write(store, name, index, columns[name], schemas[name]))
    for name, written in records.items():
        store.write_manifest(name, "all", written)
    return store, ids, vectors


def made_part(collection, kind):
    """Make one part of ``neighbors`` as the stage does; return its record and its table."""
    store, config = collection[0], Config(mining=Mining(index=kind, shards=SHARDS))
    choice = IndexChoice(kind)
    actors = [LocalActor(ImageIndexActor(store, MANIFESTS, shard, 1, choice)) for shard in range(SHARDS)]
    context = WorkerContext(config, store, MANIFESTS, {"actors": actors})
    row = {"index": 1, "key": f"{kind}-1", "inputs": json.dumps({"image_embeddings": "p1"})}
    with stand_in_for_ray():
        PartWorker("neighbors", search_part, prepare_nothing, context)(row)
    return store.record("neighbors", f"{kind}-1"), store.read_table("neighbors", f"{kind}-1")


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "pq"])
def test_the_recall_that_is_reported_is_that_of_the_stored_neighbours(collection, kind):
    _, ids, vectors = collection
    record, table = made_part(collection, kind)
    rows = slice(PART, 2 * PART)
    exact = ExactIndex(shard_vectors(ids, [vectors], LENGTH)).search(vectors[rows], ids[rows], 20)
    found = table["neighbor_ids"].to_pylist()
    if kind == "flat":
        assert found == exact.ids.tolist()
        assert record.facts == {}
        assert recall([record]) is None
        return
    config = Config(mining=Mining(index=kind))
    context, part = WorkerContext(config, collection[0], MANIFESTS), PartPlan(1, "")
    checked = recall_rows(context, part, ids[rows])
    assert len(checked) == 64
    hits = sum(len(set(found[row]) & set(exact.ids[row].tolist())) for row in checked)
    assert record.facts == {"recall_found": hits, "recall_wanted": 64 * 20}
    assert recall([record]) == hits / (64 * 20) > 0.9


def test_recall_is_measured_on_few_parts_of_a_large_collection(collection, monkeypatch):
    context = WorkerContext(Config(mining=Mining(index="ivf")), collection[0], MANIFESTS)
    monkeypatch.setattr(Store, "collection", lambda *_: range(1000))
    checked = [len(recall_rows(context, PartPlan(index, ""), np.arange(100))) for index in range(1000)]
    assert set(checked) == {0, 64}
    assert 4 <= checked.count(64) <= 36  # 16 are expected


def test_missing_neighbours_are_neither_wanted_nor_found():
    exact = Neighbors(np.array([[1, 2, -1], [-1, 4, 5]]), np.array([[0.9, 0.8, -np.inf], [0.9, 0.8, 0.7]]))
    found = Neighbors(np.array([[1, -1, -1], [-1, 5, -1]]), np.array([[0.9, -np.inf, -np.inf], [0.9, 0.7, -np.inf]]))
    assert recall_facts(found, exact) == {"recall_found": 3, "recall_wanted": 5}


def test_the_report_tells_recall(collection):
    record, _ = made_part(collection, "ivf")
    note = _stage_row(Config(), "neighbors", [record]).note
    assert note == f"recall of neighbours {recall([record]):.4f}"


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "pq"])
def test_an_actor_holds_its_own_shard_in_the_form_that_its_index_needs(collection, kind):
    actor = ImageIndexActor(collection[0], MANIFESTS, 0, 1, IndexChoice(kind))
    assert isinstance(actor.index, ExactIndex if kind == "flat" else ApproximateIndex)
    held = actor.index._shard
    store, ids, vectors = collection
    own = np.concatenate([store.read_table("shards", f"p{index}")["shard"].to_numpy() for index in range(4)]) == 0
    order = np.argsort(ids[own])
    np.testing.assert_array_equal(held.ids, ids[own][order])
    np.testing.assert_array_equal(held.vectors.astype(np.float16), vectors[own][order])
    assert held.vectors.dtype == (np.float32 if kind == "flat" else np.float16)
    assert isinstance(held.vectors, np.memmap) == (kind == "pq")


def test_an_actor_does_not_index_what_has_no_vector(collection, tmp_path):
    _, ids, vectors = collection
    other = Store(tmp_path / "store")
    other.prepare()
    own = pa.array(ids[:PART])
    columns = [own.slice(0, 10), vector_column(vectors[:10])]
    records = [write(other, "image_embeddings", 0, columns, schema.image_embeddings(LENGTH))]
    other.write_manifest("image_embeddings", "all", records)
    shards = [own.slice(0, 11), pa.array(np.zeros(11), pa.int32())]
    other.write_manifest("shards", "all", [write(other, "shards", 0, shards, schema.SHARDS)])
    with pytest.raises(StoreError, match="lacks images that have a shard"):
        ImageIndexActor(other, MANIFESTS, 0, 1)


def test_a_flat_shard_declares_its_vectors_as_float32_and_a_third():
    declared = index_bytes(IndexChoice("flat"), 250_000, 256)
    assert 1.3 * 250_000 * 256 * 4 <= declared <= 1.7 * 250_000 * 256 * 4


def test_codes_take_less_than_vectors_where_there_are_many_and_their_training_counts():
    flat, coded = (index_bytes(IndexChoice(kind), 10_000_000, 256) for kind in ("flat", "pq"))
    assert coded < 0.3 * flat
    trained_on, length = 4 * 50_000**0.5 * 40, 2048
    assert index_bytes(IndexChoice("pq"), 50_000, length) > trained_on * length * 6  # as float16 and float32


class TestGpuShare:
    @pytest.fixture
    def cluster(self, monkeypatch):
        """Stand in for a cluster with 2 GPUs whose nodes have faiss-gpu."""
        monkeypatch.setattr(neighbor_stage, "_has_faiss_gpu", lambda: True)
        resources = {"CPU": 8.0, "GPU": 2.0}
        ray = types.SimpleNamespace(cluster_resources=lambda: resources)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return resources

    @pytest.mark.parametrize(("shards", "share"), [(1, 1), (2, 1), (3, 1 / 2), (4, 1 / 2), (5, 0.3333)])
    def test_gpus_are_shared_out_equally(self, cluster, shards, share):
        config = Config(mining=Mining(shards=shards), execution=Execution(use_gpu=True))
        assert gpu_share(config) == share

    @pytest.mark.parametrize("gpus", [1, 2, 3])
    def test_all_actors_fit_on_the_gpus_at_once(self, cluster, gpus):
        cluster["GPU"] = gpus
        for shards in range(1, 65):
            config = Config(mining=Mining(shards=shards), execution=Execution(use_gpu=True))
            on_one = -(-shards // gpus)
            assert on_one * round(gpu_share(config) * 10_000) <= 10_000  # Ray rounds to the nearest such step

    @pytest.mark.parametrize("why", ["not wanted", "no GPU", "no faiss-gpu", "approximate"])
    def test_none_is_taken_where_none_would_be_used(self, cluster, why, monkeypatch):
        config = Config(
            mining=Mining(index="ivf" if why == "approximate" else "flat"),
            execution=Execution(use_gpu=why != "not wanted"),
        )
        if why == "no GPU":
            cluster.pop("GPU")
        if why == "no faiss-gpu":
            monkeypatch.setattr(neighbor_stage, "_has_faiss_gpu", lambda: False)
        assert gpu_share(config) == 0

    def test_more_neighbours_than_a_gpu_selects_are_refused_before_anything_starts(self, cluster):
        config = Config(mining=Mining(k_max=2016), execution=Execution(use_gpu=True))
        with pytest.raises(ValueError, match=r"lower mining\.k_max"):
            gpu_share(config)
