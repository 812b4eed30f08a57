"""List the images of a COCO JSON of any size."""

import posixpath
from collections.abc import Iterator

from orl_ray.scenes.entries import BadEntry, Entry, SourceImage, is_id, path_problem, readable
from orl_ray.scenes.json_file import JsonFile


def list_coco(annotations: JsonFile, prefix: str = "") -> Iterator[Entry]:
    """List the images of a COCO JSON in the order of the file, as a stream.

    Args:
        annotations: the JSON; only ``images[].id`` and ``images[].file_name`` are used.
        prefix: what the paths begin with, "" or ``name/``.

    Yields:
        Images, their paths without ``.`` and inner ``..`` parts; and rows that are none: without an id or a file
        name, with a path that is absolute or leaves the image folder. Files are not looked at.

    Raises:
        ValueError: the file is missing or is no COCO JSON.
    """
    for _, position, row in annotations.lists("images"):
        image_id, name = (row.get("id"), row.get("file_name")) if isinstance(row, dict) else (None, None)
        known = image_id if is_id(image_id) else None
        if not isinstance(name, str) or posixpath.normpath(name) == ".":
            yield BadEntry(f"{prefix}images[{position}]", "no 'file_name'", known)
        elif problem := path_problem(name):
            yield BadEntry(prefix + readable(name), problem, known)
        elif known is None:
            yield BadEntry(prefix + name, "no integer 'id' in [0, 2**63)")
        else:
            yield SourceImage(known, prefix + posixpath.normpath(name))
