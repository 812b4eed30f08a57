"""From the store's artifacts to the exported training set: images, RoIs, and the pairs that k and the ratio select."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orl_ray.columns import box_lists_of
from orl_ray.config import Config, Mining
from orl_ray.mining.pair_selection import selected_boxes
from orl_ray.pretraining.training_set import META
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.scenes.packs import packed_part, read_pack
from orl_ray.storage import PartRecord, Store

Neighbours = Sequence[tuple[int, NDArray[np.int32], NDArray[np.int32]]]


def export_training_set(config: Config, store: Store, manifests: dict[str, str], folder: Path) -> None:
    """Write what a training reads as a folder of memory-mapped arrays, unless it lies there already.

    A smaller k or pair ratio is a prefix of what was mined, and bounds on similarities drop pairs of it: selected here,
    never searched again.

    Args:
        config: the config.
        store: the store.
        manifests: keys of the manifests of ``scenes`` and, for object-level training, ``rois`` and ``correspondences``.
        folder: where to; whole or not at all.

    Raises:
        StoreError: a part is not there, or changed since it was written.
        ValueError: as :func:`objects_of`.
    """
    if (folder / META).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = {name: _by_index(store, name, key) for name, key in manifests.items()}
    paired = paired_images(store, parts["correspondences"].values()) if "rois" in parts else None
    with TrainingSetWriter(folder, config.source.max_pixels) as writer:
        for index in sorted(parts["scenes"]):
            pack = packed_part(store, parts["scenes"][index].key)
            if paired is not None:
                objects = objects_of(
                    store, parts["rois"][index], parts["correspondences"][index], config.mining, paired
                )
                for row, data in read_pack(store, pack, objects.keys()):
                    writer.add(row["image_id"], data, *objects[row["image_id"]])
            else:
                for row, data in read_pack(store, pack):
                    writer.add(row["image_id"], data)


def _by_index(store: Store, artifact: str, manifest: str) -> dict[int, PartRecord]:
    return {record.index: record for record in store.collection(artifact, manifest)}


def paired_images(store: Store, correspondences: Iterable[PartRecord]) -> NDArray[np.int64]:
    """Return, sorted, the ids of the images on either side of a pair: those whose RoIs were embedded, 8 bytes each."""
    columns = [np.empty(0, np.int64)]
    for record in correspondences:
        table = store.read_table("correspondences", record.key)
        columns.append(np.unique([table["image_id"].to_numpy(), table["neighbor_id"].to_numpy()]))
    return np.unique(np.concatenate(columns))


def objects_of(
    store: Store, rois: PartRecord, correspondences: PartRecord, mining: Mining, paired: NDArray[np.int64]
) -> dict[int, tuple[NDArray[np.int32], Neighbours]]:
    """Return the RoIs and the selected neighbours of each image of a part, by rising id.

    Args:
        store: the store.
        rois: a part of the RoIs.
        correspondences: the same part of the correspondences.
        mining: selects, as :func:`~orl_ray.mining.pair_selection.select_pairs` says.
        paired: from :func:`paired_images`; other images are left out.

    Returns:
        Image id -> (n, 4) int32 xywh RoIs, and (neighbour id, (m, 4) boxes, (m, 4) boxes of the neighbour) by rank, of
        the neighbours that have selected pairs.

    Raises:
        ValueError: bounds are set on the similarities of pairs that were imported without any.
    """
    roi_table = store.read_table("rois", rois.key)
    neighbours: dict[int, list[tuple[int, NDArray[np.int32], NDArray[np.int32]]]] = {}
    table = store.read_table("correspondences", correspondences.key)
    edges = zip(table["image_id"].to_pylist(), table["neighbor_id"].to_pylist(), strict=True)
    for (image_id, neighbor_id), boxes in zip(edges, selected_boxes(table, mining), strict=True):
        if len(boxes[0]):
            neighbours.setdefault(image_id, []).append((neighbor_id, *boxes))
    ids = roi_table["image_id"].to_numpy()
    lists = zip(ids.tolist(), box_lists_of(roi_table, "boxes"), np.isin(ids, paired), strict=True)
    return {image_id: (own, neighbours.get(image_id, [])) for image_id, own, known in lists if known}
