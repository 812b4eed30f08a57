"""The vectors that a finished discovery left in its store, read whole: for collections of a benchmark's size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orl_ray.columns import boxes_of, vectors_of
from orl_ray.storage import Store


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """Vectors of n images, by rising id, and of their RoIs.

    Attributes:
        images: (n, D) unit float16.
        counts: (n,) int64, RoIs of each image.
        rois: (image id, box) -> (D',) unit float16.
    """

    images: NDArray[np.float16]
    counts: NDArray[np.int64]
    rois: dict[tuple[int, tuple[int, ...]], NDArray[np.float16]]

    def rois_of(self, image_id: int, boxes: Sequence[tuple[int, ...]]) -> NDArray[np.float16]:
        """Return (B, D') vectors of boxes of an image.

        Raises:
            KeyError: a box is no RoI of the image.
        """
        return np.stack([self.rois[image_id, tuple(box)] for box in boxes])


def read_stored_vectors(store: Store) -> StoredVectors:
    """Read what the newest run of a store made."""
    stages = next(store.runs())["stages"]
    images: dict[int, NDArray[np.float16]] = {}
    for record in store.collection("image_embeddings", stages["image_embeddings"]["key"]):
        table = store.read_table("image_embeddings", record.key)
        images.update(zip(table["image_id"].to_pylist(), vectors_of(table), strict=True))
    rois: dict[tuple[int, tuple[int, ...]], NDArray[np.float16]] = {}
    counts = dict.fromkeys(sorted(images), 0)
    for record in store.collection("roi_embeddings", stages["roi_embeddings"]["key"]):
        for name in record.files:
            table = store.read_table("roi_embeddings", record.key, name)
            rows = zip(table["image_id"].to_pylist(), boxes_of(table, "box").tolist(), vectors_of(table), strict=True)
            for image_id, box, vector in rows:
                rois[image_id, tuple(box)] = vector
                counts[image_id] += 1
    ordered = np.stack([images[image_id] for image_id in counts])
    return StoredVectors(ordered, np.array(list(counts.values()), np.int64), rois)
