"""Take images out of a store: their bytes, and everything that was made of them.

What is deleted is what an image can be found in: its encoded bytes, its rows in every table, also as somebody's
neighbour, and the reports that may show it. The parts of all other artifacts that it had a share in stay until they are
made again: weights of networks that saw it, centroids, scores.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orl_ray.housekeeping.garbage import OURS, unrecorded_files
from orl_ray.housekeeping.repacking import pack_without
from orl_ray.scenes.packs import ARTIFACT as PACKED
from orl_ray.scenes.takedowns import ask_takedown, begin_takedown, end_takedown, noted_shares
from orl_ray.storage import PartRecord, Store

# Columns that hold image ids, flat or in lists. The listing is left out: it has to know what it must not list again.
_ID_COLUMNS = ("image_id", "neighbor_id", "neighbor_ids", "group")
_LISTING, _REPORT = "listing", "report"
# What is made of all images at once, and holds none of them.
TRAINED = ("image_level", "object_level", "centroids", "roi_codebook", "evaluation")
_READS = 8


@dataclass(slots=True)
class Traces:
    """Where images are in a store.

    Attributes:
        parts: artifact -> keys of the parts with a row of theirs, or with their picture.
        trained: artifact -> keys of what had a share of them.
        found: ids that are in the packs.
    """

    parts: dict[str, list[str]] = field(default_factory=dict)
    trained: dict[str, list[str]] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)


def find_traces(store: Store, artifacts: Collection[str], image_ids: Collection[int]) -> Traces:
    """Find every part that images have left a trace in. Reads the columns with ids of all tables; changes nothing.

    Args:
        store: the store.
        artifacts: names of all artifacts that stages make.
        image_ids: the images.

    Returns:
        The traces.
    """
    ids, traces = np.array(sorted(image_ids), np.int64), Traces()
    for artifact in artifacts:
        if artifact == _LISTING:
            continue
        records = list(store.records(artifact, sorted(store.present(artifact))).values())
        with ThreadPoolExecutor(_READS) as pool:
            hits = list(pool.map(lambda record: _hits(store, record, ids), records))
        keys = [record.key for record, hit in zip(records, hits, strict=True) if hit]
        if keys:
            traces.parts[artifact] = keys
        if artifact == PACKED:
            traces.found.update(*hits)
    packed = set(traces.parts.get(PACKED, ()))
    made, shared = _keys_of_runs(store, packed)
    for artifact in (*TRAINED, _REPORT):
        present = store.present(artifact)
        nobody_knows = present - made[artifact] if packed else set()  # they may have been made of anything
        keys = sorted(present & (shared[artifact] | noted_shares(store, image_ids, artifact)) | nobody_knows)
        if keys:
            (traces.parts if artifact == _REPORT else traces.trained)[artifact] = keys
    return traces


def take_down(
    store: Store, artifacts: Collection[str], image_ids: Collection[int], reason: str, *, weights: bool = False
) -> Traces:
    """Take images out of a store. Doing it again, or after a crash on the way, is harmless.

    Args:
        store: the store; no run may be at it.
        artifacts: names of all artifacts that stages make.
        image_ids: the images; those that are not in the store are kept out of it from now on.
        reason: for people.
        weights: delete what was trained on them, too, and all checkpoints.

    Returns:
        What was found, and with that deleted; ``trained`` is still there unless ``weights`` is set.
    """
    begin_takedown(store, image_ids)
    traces = find_traces(store, artifacts, image_ids)
    for image_id in image_ids:
        ask_takedown(store, image_id, reason, {**traces.trained, _REPORT: traces.parts.get(_REPORT, [])})
    for artifact, keys in [*traces.parts.items(), *(traces.trained.items() if weights else ())]:
        _delete_manifests(store, artifact, keys)
        for key in keys:
            if artifact == PACKED:
                pack_without(store, key, image_ids)
            else:
                store.delete_part(artifact, key)
    if weights:
        store.root.delete_folder("checkpoints")
    _sweep(store, artifacts)
    end_takedown(store, image_ids)
    return traces


def _sweep(store: Store, artifacts: Collection[str]) -> None:
    """Delete what no record names, as parts that were packed again left it, and killed writers: images may be in it."""
    for artifact in artifacts:
        for info in list(unrecorded_files(store, artifact)):
            store.root.delete(info.path)
    for folder in (*artifacts, *OURS):
        for remains in list(store.root.half_written(folder)):
            store.root.delete_half_written(remains)


def _hits(store: Store, record: PartRecord, ids: NDArray[np.int64]) -> set[int]:
    """Return which of some ids are in the tables of a part."""
    hits: set[int] = set()
    for name, entry in record.files.items():
        if name.endswith((".parquet", ".arrow")):
            path = f"{record.artifact}/{record.key}/{entry.get('stored', name)}"
            for column in _id_columns(store, path, is_arrow=name.endswith(".arrow")):
                hits.update(np.intersect1d(column, ids).tolist())
    return hits


def _id_columns(store: Store, path: str, *, is_arrow: bool) -> Iterator[NDArray[np.int64]]:
    """Yield the columns of ids of a table, flat; of a remote file, little else is fetched."""
    with store.root.open(path) as stream:
        names = pa.ipc.open_file(stream).schema.names if is_arrow else pq.read_schema(stream).names
        fields = [at for at, name in enumerate(names) if name in _ID_COLUMNS]
        stream.seek(0)
        if is_arrow:
            table = pa.ipc.open_file(stream, options=pa.ipc.IpcReadOptions(included_fields=fields)).read_all()
        else:
            table = pq.read_table(stream, columns=[names[at] for at in fields])
    for column in table.columns:
        yield (pc.list_flatten(column) if pa.types.is_list(column.type) else column).to_numpy()


def _keys_of_runs(store: Store, packed: Collection[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return artifact -> keys of all that runs made, and of what those made that read one of these packed parts."""
    made, shared = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for run in store.runs(None):
        reads_it = bool(set(run["stages"].get(PACKED, {}).get("parts", {}).values()).intersection(packed))
        for artifact, entry in run["stages"].items():
            if artifact not in run.get("pins", {}):  # what is pinned was made by another run
                made[artifact].update(entry["parts"].values())
                if reads_it:
                    shared[artifact].update(entry["parts"].values())
    return made, shared


def _delete_manifests(store: Store, artifact: str, keys: Collection[str]) -> None:
    """Delete the manifests that name any of these parts."""
    for name in sorted(store.root.names(f"{artifact}/manifests")):
        key = name.removesuffix(".json")
        if any(record.key in keys for record in store.manifest(artifact, key) or []):
            store.delete_manifest(artifact, key)
