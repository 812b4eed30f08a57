"""List the images of a folder and its sub-folders, on a disk or in a bucket."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from orl_ray.folders import Folder
from orl_ray.scenes.entries import EXTENSIONS, BadEntry, Entry, SourceImage, is_hidden, is_text, path_id, readable


def list_folder(folder: Folder, prefix: str = "") -> Iterator[Entry]:
    """List the images of a folder and its sub-folders by rising relative path, in code point order.

    Images are known by their extension, in either case. Names that begin with a dot are skipped. On a disk, links to
    files inside the folder count as files; those that leave it, links to folders (their images would be listed
    twice), names that are not UTF-8 and what is no file are bad entries. An image's id is the
    :func:`~orl_ray.scenes.entries.path_id` of its path.

    Args:
        folder: the image folder.
        prefix: what the paths begin with, "" or ``name/``.

    Returns:
        An iterator. On a disk it holds the names of the folder at hand and of those above it, about 100 bytes each;
        in a bucket, a page of the listing.

    Raises:
        ValueError: there is no such folder on this disk.
    """
    if folder.is_local:
        if not folder.local.is_dir():
            raise ValueError(f"no image folder at {folder}")
        return _walk(os.path.realpath(folder.local), "", prefix)
    return _list_bucket(folder, prefix)


def _list_bucket(folder: Folder, prefix: str) -> Iterator[Entry]:
    for info in folder.files():
        if info.path.lower().endswith(EXTENSIONS) and not is_hidden(info.path):
            path = prefix + info.path
            yield SourceImage(path_id(path), path, info.bytes, info.stamp)


@dataclass(slots=True)
class _Names:
    """What one folder holds: names in any order, those of folders with a slash behind; and which of them are links."""

    names: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)


def _scan(folder: str) -> _Names:
    found = _Names()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                if entry.name.lower().endswith(EXTENSIONS) or entry.is_dir():
                    found.links.add(entry.name)
                    found.names.append(entry.name)
            elif entry.is_dir():
                found.names.append(entry.name + "/")  # sorts as whole paths do: "a.jpg" < "a/b.jpg"
            elif entry.name.lower().endswith(EXTENSIONS):
                found.names.append(entry.name)
    found.names.sort()
    return found


def _walk(root: str, inner: str, prefix: str) -> Iterator[Entry]:
    found = _scan(f"{root}/{inner}")
    for name in found.names:
        path = prefix + inner + name
        if not is_text(name):
            yield BadEntry(readable(path), "the name is not UTF-8")
        elif name.endswith("/"):
            yield from _walk(root, inner + name, prefix)
        else:
            problem = _link_problem(root, inner + name) if name in found.links else ""
            yield BadEntry(path, problem, path_id(path)) if problem else _image(root, inner + name, path)


def _image(root: str, inner: str, path: str) -> Entry:
    try:
        status = os.stat(f"{root}/{inner}")  # noqa: PTH116 -- a million files
    except OSError:  # a broken link, or gone meanwhile: told when it is read
        return SourceImage(path_id(path), path)
    if not stat.S_ISREG(status.st_mode):
        return BadEntry(path, "is not a regular file", path_id(path))
    return SourceImage(path_id(path), path, status.st_size, str(status.st_mtime_ns))


def _link_problem(root: str, inner: str) -> str:
    target = os.path.realpath(f"{root}/{inner}")
    if not is_inside(target, root):
        return f"is a link that leaves the source: to {readable(target)}"
    return "is a link to a folder, whose images would be listed twice" if os.path.isdir(target) else ""  # noqa: PTH112


def is_inside(path: str, root: str) -> bool:
    """Say whether a real path lies below a real folder."""
    return path.startswith(root.rstrip("/") + "/")
