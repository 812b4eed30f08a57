"""The stage ``report``: a static page with curves, scores, and pictures of what mining found."""

import heapq
import json
import time
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from orl_ray import draws
from orl_ray.columns import box_lists_of
from orl_ray.config import Config, flatten
from orl_ray.evaluation.result import Result
from orl_ray.evaluation.stages import RESULT, no_labels
from orl_ray.execution import StageRun
from orl_ray.mining.neighbor_stage import recall
from orl_ray.mining.pair_selection import select_pairs
from orl_ray.pins import COPIED_FROM, IMPORT
from orl_ray.pipeline import Input, Stage, collection_hash, one_cpu
from orl_ray.report import coverage_section
from orl_ray.report.galleries import group_strip, neighbor_strip, pair_picture, patch_pairs
from orl_ray.report.near_duplicate_section import drawn_groups, summarise
from orl_ray.report.page import Picture, Quarantined, ReportContent, Setting, StageRow, render_page
from orl_ray.report.verdict import conclude
from orl_ray.scenes.near_duplicate_stage import Groups, read_groups
from orl_ray.scenes.reading import decoded_scenes
from orl_ray.settings import default, known_settings
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import PartRecord, Store

PAGE = "index.html"
_NEIGHBOURS_SHOWN = 6
_PATCHES_SHOWN = 24
_QUARANTINE_SHOWN = 50

Files = dict[str, bytes]
Records = dict[str, list[PartRecord]]


def make_report(config: Config, store: Store, manifests: dict[str, str], key: str, run_id: str) -> None:
    """Write the page and its pictures; runs in a task."""
    started = time.monotonic()
    records = {
        name: store.collection(name, manifests[name]) if name in manifests else []
        for name in shown_artifacts(config.mining.scope)
    }
    result = _result(store, records)
    histories = {stage: records[stage][0].facts["history"] for stage in ("image_level", "object_level")}
    files: Files = {}
    photographs = _Photographs(config, store, records["scenes"])
    neighbours, pairs = draw_galleries(config, store, records, photographs, files)
    images = sum(record.rows for record in records["scenes"])
    facts = records["near_duplicates"][0].facts
    content = ReportContent(
        title=f"{images:,} scenes: an object-level backbone",
        run_id=run_id,
        verdict=[
            *_encoder_of_a_round(records["image_level"]),
            *conclude(result if isinstance(result, Result) else None, histories, images),
        ],
        stages=[_stage_row(config, name, parts) for name, parts in records.items()],
        settings=_changed_settings(config),
        evaluation=no_labels(config) or result,
        histories=histories,
        neighbours=neighbours,
        coverage=coverage_section.summarise(
            *coverage_section.measure(store, records["correspondences"], config.mining), images
        ),
        pairs=pairs,
        near_duplicates=summarise(facts, images, config.mining.skip_near_duplicates),
        groups=draw_groups(config, read_groups(store, manifests["near_duplicates"]), photographs, files),
        quarantine=_quarantined(store, records),
        quarantine_count=sum(record.quarantined for parts in records.values() for record in parts),
        next_steps=_next_steps(config, records["object_level"][0]),
    )
    files[PAGE] = render_page(content).encode()
    record = store.write_part("report", key, 0, files, rows=1, seconds=time.monotonic() - started)
    store.write_manifest("report", key, [record])


def draw_galleries(
    config: Config, store: Store, records: Records, photographs: "_Photographs", files: Files
) -> tuple[list[Picture], list[Picture]]:
    """Draw, for a keyed draw of images, their neighbours, their RoI pairs, and the most similar patches.

    Args:
        config: the config.
        store: the store.
        records: artifact -> records.
        photographs: reads images by id.
        files: gets the pictures, by file name.

    Returns:
        The pictures of neighbours, and those of RoI pairs.
    """
    chosen = _gallery_images(config, store, records["neighbors"])
    paired = {
        image_id: _pairs_of(store, records["correspondences"], part, image_id, config)[:1]
        for image_id, (part, _, _) in chosen.items()
    }
    photographs.find(
        {
            *chosen,
            *(i for _, ids, _ in chosen.values() for i in ids[:_NEIGHBOURS_SHOWN]),
            *(i for found in paired.values() for i, _ in found),  # may lie behind neighbours that lost their RoIs
        }
    )
    neighbours, pairs, patches = [], [], []
    for image_id, (_, ids, similarities) in sorted(chosen.items()):
        image = photographs.read(image_id)
        name = f"neighbours-{image_id}.jpg"
        near = list(zip(ids, similarities, strict=True))[:_NEIGHBOURS_SHOWN]
        files[name] = neighbor_strip(image, [(photographs.read(i), similarity) for i, similarity in near])
        score = "" if None in similarities else ", with cosine similarities"
        caption = f"{photographs.path(image_id)} and its nearest images{score}."
        neighbours.append(Picture(name, caption, f"Image {image_id} beside its {len(near)} nearest images."))
        for neighbor, found in paired[image_id]:
            other, name = photographs.read(neighbor), f"pairs-{image_id}-{neighbor}.jpg"
            files[name] = pair_picture(image, other, [(tuple(a), tuple(b), similarity) for a, b, similarity in found])
            caption = f"{photographs.path(image_id)} and {photographs.path(neighbor)}: the most similar regions."
            pairs.append(Picture(name, caption, f"{len(found)} paired regions of images {image_id} and {neighbor}."))
            patches += [(_cut(image, a), _cut(other, b), similarity) for a, b, similarity in found]
    if patches:
        best = sorted(patches, key=lambda patch: -(patch[2] or 0.0))[:_PATCHES_SHOWN]  # imported ones have none
        files["patches.jpg"] = patch_pairs(best)
        score = "" if None in [similarity for *_, similarity in best] else ", cosine similarity"
        caption = f"The most similar pairs of the images above: query region, neighbour region{score}."
        pairs.append(Picture("patches.jpg", caption, f"{len(best)} pairs of regions, cut out and side by side."))
    return neighbours, pairs


def draw_groups(config: Config, groups: Groups, photographs: "_Photographs", files: Files) -> list[Picture]:
    """Draw a keyed draw of groups of near-duplicates; ``files`` gets the pictures, by file name."""
    chosen = drawn_groups(groups, config.report.gallery_images, 1 + _NEIGHBOURS_SHOWN, config.seed)
    photographs.find(image_id for members in chosen for image_id in members.tolist())
    pictures = []
    for members in chosen:
        name = f"near-duplicates-{members[0]}.jpg"
        files[name] = group_strip([(photographs.read(i), str(i)) for i in members.tolist()])
        caption = f"{photographs.path(int(members[0]))} and its near-duplicates, with image ids."
        pictures.append(Picture(name, caption, f"{len(members)} near-duplicates of one group."))
    return pictures


class _Photographs:
    """Images by id, for the few that a page shows."""

    def __init__(self, config: Config, store: Store, scenes: Iterable[PartRecord]) -> None:
        self._store, self._max_pixels = store, config.source.max_pixels
        self._scenes = {record.index: record for record in scenes}
        self._rows: dict[int, dict[str, Any]] = {}

    def find(self, image_ids: Iterable[int]) -> None:
        """Look the rows of some images up, in one pass over the parts."""
        wanted = np.fromiter(image_ids, np.int64)
        for record in self._scenes.values():
            table = self._store.read_table("scenes", record.key)
            for row in table.filter(pc.is_in(table["image_id"], value_set=pc.unique(wanted))).to_pylist():
                self._rows[row["image_id"]] = row

    def path(self, image_id: int) -> str:
        return str(self._rows[image_id]["path"])

    def read(self, image_id: int) -> NDArray[np.uint8]:
        """Read a photograph from its pack."""
        key = self._scenes[self._rows[image_id]["part"]].key
        return next(image for _, image in decoded_scenes(self._store, key, self._max_pixels, {image_id}))


def _gallery_images(
    config: Config, store: Store, records: Iterable[PartRecord]
) -> dict[int, tuple[int, list[int], list[float | None]]]:
    """Draw images: id -> (part, neighbour ids, similarities). Memory is bounded by a part and the gallery."""
    key = draws.stream(config.seed, "report", "gallery")
    kept: list[tuple[float, int, int, list[int], list[float | None]]] = []
    for record in records:
        table = store.read_table("neighbors", record.key)
        drawn = draws.uniform(key, table["image_id"].to_numpy(), 1)[:, 0]
        rows = zip(drawn.tolist(), table.to_pylist(), strict=True)
        part = [
            (draw, row["image_id"], record.index, row["neighbor_ids"], row["similarities"])
            for draw, row in rows
            if row["neighbor_ids"]
        ]
        kept = heapq.nsmallest(config.report.gallery_images, [*kept, *part])
    return {image_id: (part, ids, similarities) for _, image_id, part, ids, similarities in kept}


def _pairs_of(
    store: Store, records: Iterable[PartRecord], part: int, image_id: int, config: Config
) -> list[tuple[int, list[tuple[NDArray[np.int32], NDArray[np.int32], float | None]]]]:
    """Return (neighbour, [(box, neighbour's box, similarity)]) an image trains on, nearest neighbour first."""
    record = next(record for record in records if record.index == part)
    table = store.read_table("correspondences", record.key)
    table = table.filter(pc.equal(table["image_id"], image_id))
    found = []
    boxes = (box_lists_of(table, "query_boxes"), box_lists_of(table, "neighbor_boxes"))
    ids, scores = table["neighbor_id"].to_pylist(), table["similarities"].to_pylist()
    for other, score, query, neighbor, places in zip(
        ids, scores, *boxes, select_pairs(table, config.mining), strict=True
    ):
        if len(places):
            entries = list(zip(query[places], neighbor[places], [score[at] for at in places], strict=True))
            found.append((int(other), entries))
    return found


def _cut(image: NDArray[np.uint8], box: NDArray[np.int32]) -> NDArray[np.uint8]:
    x, y, width, height = box
    return image[y : y + height, x : x + width]


def _result(store: Store, records: Records) -> Result | str:
    if not records.get("evaluation"):
        return ""
    value = json.loads(store.read_file("evaluation", records["evaluation"][0].key, RESULT))
    if "not_scored" in value:
        return str(value["not_scored"])
    return Result.from_json(value)


def _stage_row(config: Config, name: str, parts: list[PartRecord]) -> StageRow:
    seconds = sum(record.seconds for record in parts)
    quarantined = sum(record.quarantined for record in parts)
    note = f"{len(parts)} parts" if len(parts) > 1 else ""
    if parts and IMPORT in parts[0].facts:
        note = f"{note}, imported".lstrip(", ")
    if (found := recall(parts)) is not None:
        found_of = "regions" if name == "correspondences" else "neighbours"
        note = f"{note}, recall of {found_of} {found:.4f}".lstrip(", ")
    if quarantined:
        note = f"{note}, {quarantined} quarantined".lstrip(", ")
    if name == "evaluation" and not parts:
        return StageRow(name, "skipped", 0, 0.0, no_labels(config))
    return StageRow(name, "done", sum(record.rows for record in parts), seconds, note)


def _changed_settings(config: Config) -> list[Setting]:
    known, values = known_settings(), flatten(config)
    return [
        Setting(name, str(default(known[name])), str(value))
        for name, value in values.items()
        if known[name].metadata["semantic"] and value != default(known[name])
    ]


def _quarantined(store: Store, records: Records) -> list[Quarantined]:
    rows: list[Quarantined] = []
    for name, parts in records.items():
        for record in parts:
            if record.quarantined and len(rows) < _QUARANTINE_SHOWN:
                table = store.quarantine(name, record.key).to_pylist()
                rows += [Quarantined(row["image_id"], row["path"], name, row["reason"]) for row in table]
    return rows[:_QUARANTINE_SHOWN]


def _encoder_of_a_round(parts: list[PartRecord]) -> list[str]:
    """Say what stands as the encoder where it was trained on objects, in an earlier round."""
    if COPIED_FROM not in parts[0].facts:
        return []
    content = collection_hash(parts)
    return [
        f"This is a later round: an earlier one's object-level network, {content}, is what this page calls image-level."
    ]


def _next_steps(config: Config, record: PartRecord) -> list[str]:
    file = f"object_level/{record.key}/backbone.safetensors"
    backbone = config.encoder.backbone
    return [
        f"The object-level backbone is {file} in the store: torchvision's {backbone} takes it with only fc missing.",
        "Look at the paired regions above: pairs should show the same kind of thing. If not, train image-level longer.",
        "Change a setting and run the same command again: only what depends on it is made again.",
    ]


def run_report(run: StageRun) -> None:
    """Write the report in one task."""
    task = stage_task(run, make_report)
    outcome(run, task.remote(run.config, run.store, run.plan.manifests, run.plan.key, run.run_id))


def shown_artifacts(scope: str) -> list[str]:
    """Return the artifacts that the page has a line of, in the order of the pipeline; ``scope`` is ``mining.scope``."""
    return [name for name in _SHOWN if name != "roi_codebook" or scope == "global"]


_SHOWN = (
    "listing",
    "packed_scenes",
    "scenes",
    "near_duplicates",
    "proposals",
    "rois",
    "image_level",
    "image_embeddings",
    "centroids",
    "shards",
    "neighbors",
    "roi_embeddings",
    "roi_codebook",
    "correspondences",
    "object_level",
    "evaluation",
)

REPORT = Stage(
    name="report",
    title="write the report",
    version=4,
    inputs=tuple(Input(name, "collection") for name in shown_artifacts("neighbors")),
    # The page lists them.
    settings=tuple(section.name for section in fields(Config) if section.name not in ("execution", "freeze", "rounds")),
    scope="collection",
    budget=one_cpu,
    unit="page",
    work=run_report,
)

GLOBAL_REPORT = replace(REPORT, inputs=tuple(Input(name, "collection") for name in shown_artifacts("global")))
