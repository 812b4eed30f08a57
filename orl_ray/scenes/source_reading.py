"""Source images for the ingest: the bytes of each entry of a listing, or why they cannot be had."""

from collections.abc import Iterator, Sequence
from typing import Any

from orl_ray.config import Config
from orl_ray.folders import Folder
from orl_ray.scenes.decode import MISSING, BadImageError
from orl_ray.scenes.reading import image_folder
from orl_ray.storage import Store


def read_entries(
    config: Config, store: Store, rows: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], bytes | BadImageError]]:
    """Yield (row, bytes or why there are none) of each row of a listing, in order."""
    folder = Folder(image_folder(config, store))
    for row in rows:
        try:
            yield row, folder.read(row["path"])
        except FileNotFoundError:
            yield row, BadImageError(MISSING)
        except PermissionError:
            yield row, BadImageError("permission denied")
