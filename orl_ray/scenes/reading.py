"""Scene images for the stages, decoded from the packs."""

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from orl_ray.scenes.decode import decode
from orl_ray.scenes.packs import packed_part, read_pack
from orl_ray.storage import Store

Quarantine = list[tuple[int, str, str]]


def decoded_scenes(
    store: Store, scenes_key: str, max_pixels: int, wanted: Collection[int] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (image id, RGB image) of each image of a part of the scenes, by rising id, one at a time.

    Args:
        store: the store.
        scenes_key: a part of the scenes.
        max_pixels: as at ingest.
        wanted: image ids; None takes all.

    Raises:
        StoreError: the packed images are not there, or changed since they were written.
    """
    if wanted is None:  # a retry may have added images to the pack that these scenes do not know
        wanted = set(store.read_table("scenes", scenes_key, columns=["image_id"])["image_id"].to_pylist())
    for row, data in read_pack(store, packed_part(store, scenes_key), wanted):
        yield row["image_id"], decode(data, max_pixels)
