"""The stage ``near_duplicates``: which images of the collection show the same thing at the same moment."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray import schema
from orl_ray.config import Config
from orl_ray.execution import StageRun
from orl_ray.pipeline import Input, Stage, one_cpu
from orl_ray.scenes.near_duplicates import THUMBNAIL_BYTES, group_near_duplicates
from orl_ray.scenes.packs import ARTIFACT as PACKED
from orl_ray.stage_task import outcome, stage_task
from orl_ray.storage import TABLE, Store, parquet_bytes

ARTIFACT = "near_duplicates"
# What the task holds: the fingerprints and the bookkeeping of the search, and its buffers.
_BYTES_AN_IMAGE, _BYTES_AT_LEAST = 700, 2**28


class Groups(NamedTuple):
    """The images that have near-duplicates.

    Attributes:
        image_ids: (m,) int64, rising.
        groups: (m,) int64, the smallest image id of each image's group.
    """

    image_ids: NDArray[np.int64]
    groups: NDArray[np.int64]

    def of(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the groups of any images, (n,) int64; one without near-duplicates is a group of its own."""
        if not len(self.image_ids):
            return image_ids
        places = np.minimum(np.searchsorted(self.image_ids, image_ids), len(self.image_ids) - 1)
        return np.where(self.image_ids[places] == image_ids, self.groups[places], image_ids)


class Fingerprints(NamedTuple):
    """What near-duplicates are known by: (n,) int64 ids, (n,) uint64 hashes, (n, 192) uint8 thumbnails."""

    image_ids: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]


def read_groups(store: Store, manifest: str | None) -> Groups:
    """Read the groups: 16 bytes an image that has a near-duplicate.

    Args:
        store: the store.
        manifest: key of the manifest of ``near_duplicates``; None where all images are to count as different.

    Raises:
        StoreError: the table is not there or changed since it was written.
    """
    records = store.collection(ARTIFACT, manifest) if manifest else []
    tables = [store.read_table(ARTIFACT, record.key) for record in records]
    table = pa.concat_tables([schema.NEAR_DUPLICATES.empty_table(), *tables])
    return Groups(table["image_id"].to_numpy(), table["group"].to_numpy())


def read_fingerprints(store: Store, keys: Iterable[str]) -> Fingerprints:
    """Read the fingerprints of packed scenes: 208 bytes an image.

    Args:
        store: the store.
        keys: parts of ``packed_scenes``.

    Raises:
        StoreError: a part is not there or changed since it was written.
    """
    ids, hashes, thumbnails = [], [], [np.empty((0, THUMBNAIL_BYTES), np.uint8)]
    for key in keys:
        table = store.read_table(PACKED, key).select(["image_id", "perceptual_hash", "thumbnail"])
        ids.append(table["image_id"].to_numpy())
        hashes.append(table["perceptual_hash"].to_numpy())
        joined = b"".join(value.as_buffer() for value in table["thumbnail"])
        thumbnails.append(np.frombuffer(joined, np.uint8).reshape(-1, THUMBNAIL_BYTES))
    return Fingerprints(
        np.concatenate([np.empty(0, np.int64), *ids]),
        np.concatenate([np.empty(0, np.uint64), *hashes]),
        np.concatenate(thumbnails),
    )


def write_groups(config: Config, store: Store, manifest: str, key: str) -> None:
    """Group the packed scenes and write the groups; runs in a task."""
    started = time.monotonic()
    limits = config.near_duplicates
    fingerprints = read_fingerprints(store, (record.key for record in store.collection(PACKED, manifest)))
    image_ids, groups = group_near_duplicates(*fingerprints, limits.max_distance, limits.max_colour_difference)
    sizes = np.unique(groups, return_counts=True)[1]
    record = store.write_part(
        ARTIFACT,
        key,
        0,
        {TABLE: parquet_bytes(pa.table([image_ids, groups], schema=schema.NEAR_DUPLICATES))},
        rows=len(image_ids),
        seconds=time.monotonic() - started,
        facts={
            "groups": len(sizes),
            "images": len(image_ids),
            "largest": int(sizes.max(initial=0)),
            "pairs": int((sizes * (sizes - 1) // 2).sum()),
        },
    )
    store.write_manifest(ARTIFACT, key, [record])


def run_near_duplicates(run: StageRun) -> None:
    """Group in one task."""
    manifest = run.plan.manifests[PACKED]
    images = sum(record.rows for record in run.store.collection(PACKED, manifest))
    task = stage_task(run, write_groups, memory=_BYTES_AT_LEAST + _BYTES_AN_IMAGE * images)
    outcome(run, task.remote(run.config, run.store, manifest, run.plan.key))


NEAR_DUPLICATES = Stage(
    name=ARTIFACT,
    title="group near-duplicates",
    version=1,
    inputs=(Input(PACKED, "collection"),),
    settings=("near_duplicates",),
    scope="collection",
    budget=one_cpu,
    work=run_near_duplicates,
)
