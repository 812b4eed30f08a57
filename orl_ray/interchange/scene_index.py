"""Which image lies in which part of the scenes, and how large it is: 20 bytes an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orl_ray.storage import PartRecord, Store


@dataclass(frozen=True, slots=True)
class SceneIndex:
    """All images of the scenes, by rising id.

    Attributes:
        image_ids: (n,) int64, ascending.
        parts: (n,) int32, the position of each one's part among the records.
        sizes: (n, 2) int32 width and height, pixels.
    """

    image_ids: NDArray[np.int64]
    parts: NDArray[np.int32]
    sizes: NDArray[np.int32]

    def find(self, image_ids: ArrayLike) -> NDArray[np.int64]:
        """Return the positions of images in this index, -1 for those that are not in the scenes."""
        wanted = np.asarray(image_ids, np.int64)
        if not len(self.image_ids):
            return np.full(wanted.shape, -1)
        at = np.minimum(np.searchsorted(self.image_ids, wanted), len(self.image_ids) - 1)
        return np.where(self.image_ids[at] == wanted, at, -1)


def read_scene_index(store: Store, records: Sequence[PartRecord]) -> SceneIndex:
    """Read the index of the scenes.

    Args:
        store: the store.
        records: all parts of the scenes.

    Raises:
        StoreError: a part is not there, or changed since it was written.
    """
    columns: list[list[NDArray[np.int64]]] = []
    for position, record in enumerate(records):
        table = store.read_table("scenes", record.key, columns=["image_id", "width", "height"])
        columns.append([*(table[name].to_numpy() for name in table.column_names), np.full(len(table), position)])
    ids, width, height, parts = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(ids)
    sizes = np.stack([width[order], height[order]], axis=1).astype(np.int32)
    return SceneIndex(ids[order].astype(np.int64), parts[order].astype(np.int32), sizes)
