"""The stages ``roi_codebook``, and ``correspondences`` where ``mining.scope`` is global: RoIs near to RoIs anywhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import save

from orl_ray import schema
from orl_ray.columns import boxes_of, vectors_of
from orl_ray.config import Config, Mining
from orl_ray.environment import numeric_environment
from orl_ray.execution import StageRun
from orl_ray.mining.correspondence_stage import correspondence_table
from orl_ray.mining.global_codebook import SAMPLE, Codebook, fit_codebook, in_sample, list_count, nearest_lists
from orl_ray.mining.global_pairs import pairs_by_image
from orl_ray.mining.global_search import Found, best_candidates, join_rows, most_similar, positions_of
from orl_ray.mining.global_shard_actor import ARTIFACT, CODEBOOK, RoiSearchActor, by_image, read_codebook
from orl_ray.mining.matching import pair_count
from orl_ray.mining.neighbor_stage import index_manifests
from orl_ray.mining.roi_shard_actor import roi_rows
from orl_ray.mining.shard_actors import shard_actors
from orl_ray.part_runner import PartOutput, WorkerContext, run_parts
from orl_ray.pipeline import Input, PartPlan, Stage, one_cpu
from orl_ray.scenes.near_duplicate_stage import ARTIFACT as GROUPS
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import TABLE, Store, parquet_bytes

# RoIs that are sent to the shards at once: 4 MB of 2048 numbers each.
_QUERIES = 1024
# RoIs of the collection whose neighbours are also searched exactly, about: recall is told from them.
_RECALL_SAMPLE = 256
# What fitting holds beside its vectors, which it has as float16, float64, float32, and once more as what centres leave.
_FIT_BYTES, _FIT_COPIES = 2**28, 13


@dataclass(frozen=True, slots=True)
class GlobalSearch:
    """Searches all shards for the RoIs that are nearest to some RoIs.

    Attributes:
        actors: one :class:`RoiSearchActor` handle a shard.
        codebook: the codebook; None searches exactly.
        mining: its ``global_*`` settings say how far to look.
    """

    actors: list[Any]
    codebook: Codebook | None
    mining: Mining

    def nearest(self, vectors: NDArray[np.float16], image_ids: NDArray[np.int64]) -> Found:
        """Find the nearest RoIs of RoIs: (n, D) vectors, (n,) images; candidates re-ranked where there is a codebook.

        A RoI with too few others in the lists that it probes probes twice as many, until all are.
        """
        if self.codebook is None:
            return self.exact(vectors, image_ids)
        found = self._probed(self.codebook, vectors, image_ids, probes := self.mining.global_probes)
        while probes < len(self.codebook.centers) and (short := found.image_ids[:, -1] < 0).any():
            probes *= 2
            more = self._probed(self.codebook, vectors[short], image_ids[short], probes)
            found.put(short, more)
        return found

    def exact(self, vectors: NDArray[np.float16], image_ids: NDArray[np.int64]) -> Found:
        """Find the nearest RoIs of RoIs by scans of all shards."""
        count = self.mining.global_neighbors

        def search(rows: slice) -> list[Found]:
            return self._ask("scan", vectors[rows], image_ids[rows], count)

        return self._batches(len(vectors), lambda rows: most_similar(search(rows), count), count)

    def _probed(
        self, codebook: Codebook, vectors: NDArray[np.float16], image_ids: NDArray[np.int64], probes: int
    ) -> Found:
        """Return each RoI's nearest among the candidates of all shards together."""
        mining = self.mining

        def search(rows: slice) -> Found:
            lists = nearest_lists(codebook, vectors[rows], probes)
            found = self._ask("candidates", vectors[rows], image_ids[rows], lists, mining.global_candidates)
            return most_similar([best_candidates(found, mining.global_candidates)], mining.global_neighbors)

        return self._batches(len(vectors), search, mining.global_neighbors)

    def _ask(self, method: str, vectors: NDArray[np.float16], *arguments: Any) -> list[Found]:
        import ray

        sent = ray.put(vectors)
        found: list[Found] = ray.get([getattr(actor, method).remote(sent, *arguments) for actor in self.actors])
        return found

    def _batches(self, total: int, search: Callable[[slice], Found], count: int) -> Found:
        return join_rows([search(slice(start, start + _QUERIES)) for start in range(0, total, _QUERIES)], count)


def read_rois(store: Store, key: str) -> pa.Table:
    """Read the RoI embeddings of a part, those of one shard after another."""
    record = store.record("roi_embeddings", key)
    names = sorted(record.files) if record else []
    return pa.concat_tables([store.read_table("roi_embeddings", key, name) for name in names])


def write_codebook(config: Config, store: Store, manifest: str, key: str) -> None:
    """Fit the codebook on a keyed sample of the RoI embeddings, and write it; runs in a task.

    A collection that is scanned exactly gets a record without a file.
    """
    started = time.monotonic()
    records = store.collection("roi_embeddings", manifest)
    rois = sum(record.facts["rois"] for record in records)
    lists = list_count(rois, config.mining.global_lists)
    files: dict[str, bytes] = {}
    if lists:
        chosen = []
        for record in records:
            table = by_image(read_rois(store, record.key))
            ids = table["image_id"].to_numpy()
            chosen.append(vectors_of(table)[in_sample(ids, positions_of(ids), rois, config.seed)])
        fitted = fit_codebook(np.concatenate(chosen), lists, config.mining.global_code_bytes, config.seed)
        files[CODEBOOK] = save({"centers": fitted.centers, "codewords": fitted.codewords})
    record = store.write_part(
        ARTIFACT,
        key,
        0,
        files,
        rows=lists,
        seconds=time.monotonic() - started,
        environment=numeric_environment(),
        facts={"rois": rois},
    )
    store.write_manifest(ARTIFACT, key, [record])


def run_codebook(run: StageRun) -> None:
    """Fit the codebook in one task."""
    manifest = run.plan.manifests["roi_embeddings"]
    records = run.store.collection("roi_embeddings", manifest)
    rois = max(1, sum(record.facts["rois"] for record in records))
    sample = sum(record.bytes for record in records) * min(1.0, SAMPLE / rois)
    task = stage_task(run, write_codebook, memory=_FIT_BYTES + _FIT_COPIES * sample)
    outcome(run, task.remote(run.config, run.store, manifest, run.plan.key))


def prepare_codebook(context: WorkerContext) -> Codebook | None:
    """Read the codebook."""
    return read_codebook(context.store, context.manifests[ARTIFACT])


def correspond_globally(context: WorkerContext, codebook: Codebook | None, part: PartPlan) -> PartOutput:
    """Pair the RoIs of every image of a part with the RoIs of any images that are nearest to them."""
    rois, mining = by_image(read_rois(context.store, part.inputs["roi_embeddings"])), context.config.mining
    vectors, boxes, image_ids = vectors_of(rois), boxes_of(rois, "box"), rois["image_id"].to_numpy()
    search = GlobalSearch(context.shared["actors"], codebook, mining)
    found = search.nearest(vectors, image_ids)
    columns: dict[str, list[Any]] = {name: [] for name in schema.CORRESPONDENCES.names}
    spans = roi_rows(image_ids)
    for image_id, (start, stop) in spans.items():
        own = boxes[start:stop]
        pairs = pair_count(len(own), mining.ratio_max)
        for rank, row in enumerate(pairs_by_image(found.rows(slice(start, stop)), mining.k_max, pairs)):
            entry = (image_id, row.neighbor_id, rank, len(own), own[row.query_index], row.boxes, row.similarities)
            for name, value in zip(columns, entry, strict=True):
                columns[name].append(value)
    facts = {
        "pairs": sum(map(len, columns["similarities"])),
        "bytes_moved": vectors.nbytes * len(search.actors),
        **({} if codebook is None else recall(context, search, vectors, image_ids, found)),
    }
    return PartOutput({TABLE: parquet_bytes(correspondence_table(columns))}, rows=len(spans), facts=facts)


def recall(
    context: WorkerContext,
    search: GlobalSearch,
    vectors: NDArray[np.float16],
    image_ids: NDArray[np.int64],
    found: Found,
) -> dict[str, int]:
    """Count, for a keyed sample of a part's RoIs, which of their exact nearest RoIs were found.

    Returns:
        ``recall_wanted``, the exact nearest of the sample, and ``recall_found``, those of them that were found; among
        equally similar ones any counts.
    """
    rois = context.store.collection(ARTIFACT, context.manifests[ARTIFACT])[0].facts["rois"]
    chosen = np.flatnonzero(in_sample(image_ids, positions_of(image_ids), rois, context.config.seed, _RECALL_SAMPLE))
    exact = search.exact(vectors[chosen], image_ids[chosen]).similarities
    wanted = np.isfinite(exact)
    least = np.where(wanted, exact, np.inf).min(axis=1, initial=np.inf)
    reached = (found.similarities[chosen] >= least[:, None]).sum(axis=1)
    return {"recall_wanted": int(wanted.sum()), "recall_found": int(reached.sum())}


def check_others(store: Store, manifests: dict[str, str]) -> None:
    """Check that images have others to be paired with.

    Raises:
        ValueError: all images of the collection are near-duplicates of each other, or there is only one.
    """
    images = sum(record.rows for record in store.collection("roi_embeddings", manifests["roi_embeddings"]))
    groups = store.collection(GROUPS, manifests[GROUPS]) if GROUPS in manifests else []
    largest = max([1, *(record.facts["largest"] for record in groups)])
    if images <= largest:
        raise ValueError(
            f"{largest} of the {images} images are near-duplicates of each other, so none is left to pair regions "
            "with: lower near_duplicates.max_distance, or set mining.skip_near_duplicates=false"
        )


def run_global_correspondences(run: StageRun) -> None:
    """Search with one actor a shard, which holds the shard's RoIs.

    Raises:
        ValueError: as :func:`check_others`.
    """
    manifests, shards = index_manifests(run.config, run.plan.manifests), run.config.mining.shards
    check_others(run.store, manifests)
    records = run.store.collection("roi_embeddings", manifests["roi_embeddings"])
    size = 3 * sum(record.bytes for record in records) // shards  # as read, joined, and in order
    with shard_actors(RoiSearchActor, run, manifests, shards, size) as actors:
        run_parts(run, correspond_globally, prepare=prepare_codebook, shared={"actors": actors})


ROI_CODEBOOK = Stage(
    name=ARTIFACT,
    title="fit the region codebook",
    version=1,
    inputs=(Input("roi_embeddings", "collection"),),
    settings=("seed", "mining.global_lists", "mining.global_code_bytes"),
    scope="collection",
    budget=one_cpu,
    unit="lists",
    work=run_codebook,
)

GLOBAL_CORRESPONDENCES = Stage(
    name="correspondences",
    title="pair regions across the collection",
    version=1,
    inputs=(
        Input("roi_embeddings"),
        Input("roi_embeddings", "collection"),
        Input(ARTIFACT, "collection"),
        Input(GROUPS, "collection"),
    ),
    settings=(
        "seed",
        "mining.scope",
        "mining.k_max",
        "mining.ratio_max",
        "mining.skip_near_duplicates",
        "mining.global_neighbors",
        "mining.global_probes",
        "mining.global_candidates",
    ),
    work=run_global_correspondences,
)
