"""From the store's artifacts to the exported training set: images, RoIs, and the pairs that k and the ratio select."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.columns import box_lists_of
from orl_ray.config import Config, Mining
from orl_ray.mining.pair_selection import selected_boxes
from orl_ray.pretraining.sampling import RUN
from orl_ray.pretraining.training_set import META
from orl_ray.pretraining.training_set_writer import InStore, TrainingSetWriter
from orl_ray.scenes.packs import locate, packed_part, read_pack
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
        folder: where to; whole or not at all. With ``execution.cache_gb``, images stay in the store, and come into this
            folder when they are needed.

    Raises:
        StoreError: a part is not there, or changed since it was written.
        ValueError: as :func:`objects_of`; or the cache is too small for the window in which images are shuffled.
    """
    if (folder / META).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = {name: _by_index(store, name, key) for name, key in manifests.items()}
    paired = paired_images(store, parts["correspondences"].values()) if "rois" in parts else None
    packs = _Packs(store, config.execution.cache_gb) if config.execution.cache_gb else None
    of_packs, decoded_bytes = None if packs is None else packs.meta, int(config.execution.decoded_gb * 1e9)
    with TrainingSetWriter(folder, config.source.max_pixels, of_packs, decoded_bytes) as writer:
        for index in sorted(parts["scenes"]):
            pack = packed_part(store, parts["scenes"][index].key)
            objects = None
            if paired is not None:
                objects = objects_of(
                    store, parts["rois"][index], parts["correspondences"][index], config.mining, paired
                )
            images = read_pack(store, pack, objects) if packs is None else packs.places(pack, objects)
            for row, data in images:
                writer.add(row["image_id"], data, *(objects[row["image_id"]] if objects is not None else ()))
        if packs is not None:
            packs.check(getattr(config, "image_level" if paired is None else "object_level").shuffle_window)


class _Packs:
    """The packs of a training set whose images stay in the store.

    Attributes:
        meta: what the training set says of them; complete when all parts were seen.
    """

    def __init__(self, store: Store, cache_gb: float) -> None:
        self._store, self._limit = store, int(cache_gb * 1e9)
        self._numbers: dict[tuple[str, str], int] = {}
        self._of_images: list[NDArray[np.int32]] = []
        self.meta: dict[str, Any] = {"store": store.root.uri, "cache_bytes": self._limit, "packs": []}

    def places(self, key: str, wanted: Collection[int] | None) -> Iterator[tuple[dict[str, Any], InStore]]:
        """Yield (row, where the image is) of the wanted images of a part, or of all."""
        numbers = []
        for row, name, size in locate(self._store, key, wanted):
            number = self._numbers.setdefault((key, name), len(self._numbers))
            if number == len(self.meta["packs"]):
                self.meta["packs"].append([key, name, size])
            numbers.append(number)
            yield row, InStore(number, row["offset"], row["bytes"], row["content_hash"])
        self._of_images.append(np.array(numbers, np.int32))

    def check(self, window: int) -> None:
        """Check that the cache holds what is in use at a time: two windows, the present and the next one.

        Raises:
            ValueError: it does not, and each sample would fetch a pack.
        """
        sizes = np.array([size for *_, size in self.meta["packs"]])
        needed = int(sizes.sum())
        if window:
            of_images = np.concatenate(self._of_images)
            runs = [np.unique(of_images[start : start + RUN]) for start in range(0, len(of_images), RUN)]
            in_window = -(-window // RUN) + 1
            needed = min(needed, 2 * sum(sorted((int(sizes[run].sum()) for run in runs), reverse=True)[:in_window]))
        if needed > self._limit:
            most = "smaller" if window else "above 0"
            raise ValueError(
                f"execution.cache_gb: training goes through {needed / 1e9:.3g} GB of packed images at a time, and "
                f"{self._limit / 1e9:.3g} are allowed; allow more, or set shuffle_window {most}"
            )


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
