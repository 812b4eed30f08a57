"""A small store, made by the stages' own plain functions in this process: no Ray, no training.

Weights are fresh ones in place of trained ones, and a stand-in takes Ray's place where actors are called.
"""

import contextlib
import functools
import json
import os
import shutil
import sys
import types
from dataclasses import dataclass, replace

from safetensors.torch import save

from orl_ray.config import Config
from orl_ray.embeddings.encoder import WEIGHTS
from orl_ray.embeddings.stages import embed_images, embed_rois, prepare_image_encoder, prepare_roi_encoder
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.heads import mlp_head
from orl_ray.evaluation.stages import evaluate_encoders
from orl_ray.graph import main_job
from orl_ray.mining.correspondence_stage import correspond_part
from orl_ray.mining.global_shard_actor import RoiSearchActor
from orl_ray.mining.global_stage import correspond_globally, prepare_codebook, write_codebook
from orl_ray.mining.image_index_actor import ImageIndexActor
from orl_ray.mining.neighbor_stage import index_manifests, search_part
from orl_ray.mining.roi_shard_actor import RoiShardActor
from orl_ray.mining.shard_stages import assign_part, fit_shards, prepare_centroids
from orl_ray.part_runner import PartWorker, WorkerContext, prepare_nothing
from orl_ray.pins import resolve_pins
from orl_ray.pipeline import PartPlan, State, list_parts, plan
from orl_ray.proposals.stages import filter_part, propose_part
from orl_ray.report.stages import make_report
from orl_ray.scenes.listing import write_listing
from orl_ray.scenes.near_duplicate_stage import write_groups
from orl_ray.scenes.packing import pack_part
from orl_ray.scenes.sources import source_folders
from orl_ray.scenes.stages import describe_part
from orl_ray.settings import load
from orl_ray.storage import TABLE, Store, parquet_bytes

PROCESSES = {
    "packed_scenes": (pack_part, prepare_nothing),
    "scenes": (describe_part, prepare_nothing),
    "proposals": (propose_part, prepare_nothing),
    "rois": (filter_part, prepare_nothing),
    "image_embeddings": (embed_images, prepare_image_encoder),
    "shards": (assign_part, prepare_centroids),
    "neighbors": (search_part, prepare_nothing),
    "roi_embeddings": (embed_rois, prepare_roi_encoder),
    "correspondences": (correspond_part, prepare_nothing),
}
ACTORS = {"neighbors": ImageIndexActor, "correspondences": RoiShardActor}
# What differs where ``mining.scope`` is global.
GLOBAL_PROCESSES = PROCESSES | {"correspondences": (correspond_globally, prepare_codebook)}
GLOBAL_ACTORS = ACTORS | {"correspondences": RoiSearchActor}
SMALL = (
    "generated.images=20",
    "generated.test_images=8",
    "generated.side=64",
    "source.part_size=8",
    "encoder.hidden=16",
    "encoder.output=8",
    "embeddings.image_resize=36",
    "embeddings.image_crop=32",
    "embeddings.roi_size=32",
    "embeddings.batch_size=16",
    "rois.max_rois=12",
    "mining.k_max=6",
    "mining.k=3",
    "mining.ratio_max=0.6",
    "mining.pair_ratio=0.3",
    "evaluation.knn_k=5",
    "evaluation.min_positives=1",
    "evaluation.bootstrap=100",
    "report.gallery_images=3",
)
HISTORY = [{"step": step, "epoch": step / 2, "loss": 4 - step, "feature_std": 0.8, "lr": 0.1} for step in (1, 2)]


class LocalActor:
    """An actor's class in this process: every method has ``remote``, which runs at once."""

    def __init__(self, wrapped):
        self._wrapped = wrapped

    def __getattr__(self, name):
        return types.SimpleNamespace(remote=getattr(self._wrapped, name))


@contextlib.contextmanager
def stand_in_for_ray():
    """Let ``import ray`` give something whose futures are their own results.

    Other modules that are imported meanwhile stay: extension modules do not survive being dropped.
    """
    before = sys.modules.get("ray")
    sys.modules["ray"] = types.SimpleNamespace(put=lambda value: value, get=lambda value: value)
    try:
        yield
    finally:
        del sys.modules["ray"]
        if before is not None:
            sys.modules["ray"] = before


@dataclass(frozen=True)
class SmallStore:
    """A config, its store, and ways to carry its plan out."""

    config: Config
    store: Store

    @classmethod
    def new(cls, folder, *overrides, small=SMALL):
        config = load("laptop", None, [*small, f"execution.store={folder}", *overrides])
        store = Store(folder)
        store.prepare()
        return cls(config, store)

    def copy(self, folder):
        """Return a copy on hard links. Replace files in it, never write into them."""
        shutil.copytree(self.store.root.local, folder, copy_function=os.link)
        return SmallStore(replace_execution(self.config, store=str(folder)), Store(folder))

    def with_settings(self, **sections):
        """Return the same store under a config with other values: ``mining={"k": 2}``."""
        changed = {name: replace(getattr(self.config, name), **values) for name, values in sections.items()}
        return SmallStore(replace(self.config, **changed), self.store)

    def plan(self, name):
        pins = resolve_pins(self.config, self.store)
        return next(
            p
            for p in plan(
                self.config, main_job(self.config.mining.scope, self.config.object_level.init_from), self.store, pins
            )
            if p.stage.name == name
        )

    def records(self, name):
        return list(self.plan(name).records)

    def tables(self, name):
        """Return the Parquet table of each part, in part order."""
        return [self.store.read_table(name, record.key) for record in self.records(name)]

    def rows(self, name):
        """Return all rows of an artifact as dicts."""
        return [row for table in self.tables(name) for row in table.to_pylist()]

    def quarantined(self, name):
        """Return (image id, reason) of what a stage left out."""
        tables = [self.store.quarantine(name, record.key) for record in self.records(name)]
        return [(row["image_id"], row["reason"]) for table in tables for row in table.to_pylist()]

    def make(self, until="report"):
        """Carry the plan out up to a stage; return the names of the stages that were made."""
        names = [stage.name for stage in main_job(self.config.mining.scope, self.config.object_level.init_from)]
        made = []
        for name in names[: names.index(until) + 1]:
            stage_plan = self.plan(name)
            assert stage_plan.state is not State.WAITS, stage_plan.reason
            list_parts(self.store, [stage_plan])
            if stage_plan.state is State.RUN:
                make_stage(self.config, self.store, stage_plan)
                made.append(name)
        return made


def image_files(small, split="train"):
    """Return the folder of a split's image files."""
    return source_folders(small.config, small.store, split)[0].images.local


def lose_source(small):
    """Delete all image files of a source and its COCO JSON, as a user may who needs the room."""
    shutil.rmtree(image_files(small).parent)


def part_without_images(small):
    """Write a part of scenes whose every image is in quarantine; return its key."""
    packed = small.tables("packed_scenes")[0].slice(0, 0)
    written = small.store.write_part("packed_scenes", "none-packed", 0, {TABLE: parquet_bytes(packed)}, rows=0)
    context, part = WorkerContext(small.config, small.store, {}), PartPlan(0, "none", {"packed_scenes": written.key})
    output = describe_part(context, None, part)
    return small.store.write_part("scenes", "none", 0, output.files, rows=0, facts=output.facts).key


def make_stage(config, store, stage_plan):
    """Make what is missing of one stage and write its manifest."""
    name, key, manifests = stage_plan.stage.name, stage_plan.key, stage_plan.manifests
    if name in PROCESSES:
        with stand_in_for_ray():
            written = _make_parts(config, store, stage_plan)
        store.write_manifest(name, key, [*stage_plan.records, *written])
    elif name == "listing":
        store.write_manifest(name, key, write_listing(config, store, key))
    elif name in ("image_level", "object_level"):
        store.write_manifest(name, key, [write_fresh_weights(config, store, name, key)])
    elif name == "near_duplicates":
        write_groups(config, store, manifests["packed_scenes"], key)
    elif name == "centroids":
        fit_shards(config, store, manifests["image_embeddings"], key)
    elif name == "roi_codebook":
        write_codebook(config, store, manifests["roi_embeddings"], key)
    elif name == "evaluation":
        evaluate_encoders(config, store, manifests, key)
    else:
        make_report(config, store, manifests, key, "20260101T000000-abcdef")


def _make_parts(config, store, stage_plan):
    name, shared = stage_plan.stage.name, {}
    in_all = config.mining.scope == "global"
    processes, actors = (GLOBAL_PROCESSES, GLOBAL_ACTORS) if in_all else (PROCESSES, ACTORS)
    if name in actors:
        shards = range(config.mining.shards)
        manifests = index_manifests(config, stage_plan.manifests)
        shared["actors"] = [LocalActor(actors[name](store, manifests, shard, 1)) for shard in shards]
    worker = PartWorker(name, *processes[name], WorkerContext(config, store, stage_plan.manifests, shared))
    for part in stage_plan.missing:
        receipt = worker({"index": part.index, "key": part.key, "inputs": json.dumps(part.inputs)})
        assert receipt["index"] == part.index
    return [store.record(name, part.key) for part in stage_plan.missing]


def fresh_weights(config, stage):
    """Return what a training leaves that has not begun: the online backbone and projector."""
    backbone = build_backbone(config.encoder.backbone)
    projector = mlp_head(backbone.features, config.encoder.hidden, config.encoder.output)
    initialise(backbone, config.seed, stage, "backbone")
    initialise(projector, config.seed, stage, "projector")
    modules = {"online.backbone.": backbone, "online.projector.": projector}
    return {prefix + name: tensor for prefix, module in modules.items() for name, tensor in module.state_dict().items()}


@functools.cache
def _saved_weights(encoder, seed, stage):
    return save(fresh_weights(replace(Config(), seed=seed, encoder=encoder), stage))


def write_fresh_weights(config, store, stage, key):
    files = {WEIGHTS: _saved_weights(config.encoder, config.seed, stage)}
    return store.write_part(stage, key, 0, files, rows=2, facts={"history": HISTORY})


def replace_execution(config, **values):
    return replace(config, execution=replace(config.execution, **values))
