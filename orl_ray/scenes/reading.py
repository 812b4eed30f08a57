"""Scene images for the stages, decoded from the packs."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orl_ray.config import Config
from orl_ray.scenes.decode import MISSING, BadImageError, decode
from orl_ray.scenes.packs import packed_part, read_pack
from orl_ray.storage import Store, canonical_digest

Quarantine = list[tuple[int, str, str]]

# Raised with every change of the renderer that changes pixels, and with it the version of the stage ``scenes``.
_RENDERER = 1


def collection_folder(config: Config, store: Store, split: str = "train") -> Path:
    """Return the folder of a config's source: of generated scenes inside the store, else the user's own."""
    if config.source.kind != "generated":
        return Path(config.source.images)
    size = {"train": config.generated.images, "test": config.generated.test_images}[split]
    name = canonical_digest([_RENDERER, config.seed, split, size, config.generated.side])
    return store.root.local / "generated" / f"{split}-{name}"


def image_folder(config: Config, store: Store, split: str = "train") -> Path:
    """Return the folder that image paths are relative to."""
    folder = collection_folder(config, store, split)
    return folder / "images" if config.source.kind == "generated" else folder


def annotation_file(config: Config, store: Store, split: str = "train") -> Path | None:
    """Return the COCO JSON of a config's source, or None where it has none."""
    if config.source.kind == "generated":
        return collection_folder(config, store, split) / "instances.json"
    return Path(config.source.annotations) if config.source.annotations else None


def read_bytes(folder: Path, path: str) -> bytes:
    """Read an image file.

    Raises:
        BadImageError: there is no such file, or it may not be read.
    """
    try:
        return (folder / path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BadImageError(MISSING) from error
    except PermissionError as error:
        raise BadImageError("permission denied") from error


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
    for row, data in read_pack(store, packed_part(store, scenes_key), wanted):
        yield row["image_id"], decode(data, max_pixels)
