"""The tar and Parquet files of a source: which there are, and which of them may not be read."""

import os
from collections.abc import Iterator

from orl_ray.folders import FileInfo, Folder
from orl_ray.scenes.entries import BadEntry, is_hidden, is_text, readable
from orl_ray.scenes.folder_source import is_inside


def list_containers(folder: Folder, suffix: str, prefix: str) -> Iterator[FileInfo | BadEntry]:
    """List the files of a folder and its sub-folders that end in ``suffix``, in either case, by rising path.

    Args:
        folder: the source's folder.
        suffix: such as ``.tar``.
        prefix: what the paths of bad entries begin with.

    Returns:
        An iterator over files, with paths relative to the folder, and over those that are none of the source's.

    Raises:
        ValueError: there is no such folder on this disk.
    """
    if folder.is_local and not folder.local.is_dir():
        raise ValueError(f"no folder at {folder}")
    return _list(folder, suffix, prefix)


def _list(folder: Folder, suffix: str, prefix: str) -> Iterator[FileInfo | BadEntry]:
    root = os.path.realpath(folder.local) if folder.is_local else ""
    for info in folder.files():
        if not info.path.lower().endswith(suffix) or is_hidden(info.path):
            continue
        if not is_text(info.path):
            yield BadEntry(prefix + readable(info.path), "the name is not UTF-8")
        elif root and not is_inside(os.path.realpath(f"{root}/{info.path}"), root):
            yield BadEntry(prefix + info.path, "is a link that leaves the source")
        else:
            yield info
