"""Scene images for the stages: bytes by path, checked against the hash that was taken at ingest."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orl_ray.config import Config
from orl_ray.scenes.decode import MISSING, BadImageError, decode
from orl_ray.storage import Store, canonical_digest, digest

Quarantine = list[tuple[int, str, str]]

# Raised with every change of the renderer that changes pixels, and with it the version of the stage ``scenes``.
_RENDERER = 1


def collection_folder(config: Config, store: Store, split: str = "train") -> Path:
    """Return the folder of a config's source: of generated scenes inside the store, else the user's own."""
    if config.source.kind != "generated":
        return Path(config.source.images)
    size = {"train": config.generated.images, "test": config.generated.test_images}[split]
    name = canonical_digest([_RENDERER, config.seed, split, size, config.generated.side])
    return store.root / "generated" / f"{split}-{name}"


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


def read_scene(folder: Path, path: str, content_hash: str) -> bytes:
    """Read an image file as it was at ingest.

    Raises:
        BadImageError: it is gone, or its bytes changed.
    """
    data = read_bytes(folder, path)
    if digest(data) != content_hash:
        raise BadImageError("changed since ingest")
    return data


def decoded_scenes(
    config: Config, store: Store, scenes: pa.Table, quarantine: Quarantine
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (image id, RGB image) of each row of a scenes table, one at a time.

    Args:
        config: the config.
        store: the store.
        scenes: a part of the scenes.
        quarantine: gets (image id, path, reason) of each image that cannot be read any more; it is not yielded.
    """
    folder = image_folder(config, store)
    for row in scenes.to_pylist():
        try:
            image = decode(read_scene(folder, row["path"], row["content_hash"]), config.source.max_pixels)
        except BadImageError as error:
            quarantine.append((row["image_id"], row["path"], str(error)))
        else:
            yield row["image_id"], image
