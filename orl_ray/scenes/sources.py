"""Where scene images come from: a folder, or the image list of a COCO JSON.

Sources only list. Whether a file exists, and whether it decodes, shows when its part is read; bad images are
quarantined then.
"""

import hashlib
import heapq
import itertools
import json
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orl_ray import draws

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MAX_LISTED = 10
_DRAW_BATCH = 4096


@dataclass(frozen=True, slots=True, order=True)
class SourceImage:
    """One image of a source.

    Attributes:
        image_id: non-negative int64, unique within the source.
        path: the file, relative to the image folder, with forward slashes.
    """

    image_id: int
    path: str


def path_id(path: str) -> int:
    """Return the id of an image that has none: 63 bits of BLAKE2b of its relative posix path, in Unicode NFC and UTF-8.

    NFC makes the id the same whichever way a file system spells accents. Among 24 million images two share an id with
    a probability of about 3e-5.
    """
    digest = hashlib.blake2b(unicodedata.normalize("NFC", path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def list_folder(root: str | Path) -> Iterator[SourceImage]:
    """List the images of a folder and its sub-folders, sorted by relative path in code point order, in bounded memory.

    Images are known by their extension, in either case. Names that begin with a dot are skipped. Links to files
    inside the root count as files. A row's id is :func:`path_id` of its path.

    Args:
        root: the image folder.

    Returns:
        An iterator that reads one folder at a time.

    Raises:
        ValueError: the root is no folder; or, while iterating, a folder holds links that leave the root, links to
            folders (their images
            would be listed twice), names that are not UTF-8, or names that differ only in Unicode normalisation. Up
            to ten are named.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise ValueError(f"no image folder at {folder}")
    return _walk(folder.resolve(), "")


def list_coco(annotations: str | Path, root: str | Path) -> Iterator[SourceImage]:
    """List the images of a COCO JSON, in the order of the file.

    Args:
        annotations: the JSON; only ``images[].id`` and ``images[].file_name`` are used.
        root: the image folder that the file names are relative to.

    Returns:
        An iterator over the images, their paths without ``.`` and inner ``..`` parts.

    Raises:
        ValueError: the root is no folder, the JSON is no COCO JSON, or images have bad or duplicate ids, or file
            names that are
            absolute or leave the root. Up to ten problems are listed at once.
    """
    if not Path(root).is_dir():
        raise ValueError(f"no image folder at {root}")
    images: list[SourceImage] = []
    problems: list[str] = []
    seen: set[int] = set()
    for position, row in enumerate(load_coco(annotations, ("images",))["images"]):
        problem = _image_problem(row, seen)
        if problem:
            problems.append(f"images[{position}]: {problem}")
        else:
            seen.add(row["id"])
            images.append(SourceImage(row["id"], posixpath.normpath(row["file_name"])))
    raise_problems(f"bad images in {annotations}", problems)
    return iter(images)


def restrict(images: Iterable[SourceImage], splits_json: str | Path, split: str) -> list[SourceImage]:
    """Keep the images of one split, in their order. Memory is bounded by the split.

    Args:
        images: the source.
        splits_json: a JSON ``{"train": [paths], "test": [paths], ...}`` with paths as the source lists them.
        split: the key to keep.

    Raises:
        ValueError: the file is no such JSON, the split is unknown, or it names images that are not in the source.
    """
    splits = _load_json(splits_json)
    if not isinstance(splits, dict) or split not in splits:
        known = ", ".join(map(repr, splits)) if isinstance(splits, dict) else "none: the file is not a JSON object"
        raise ValueError(f"no split {split!r} in {splits_json}; it has {known}")
    if not isinstance(splits[split], list) or not all(isinstance(name, str) for name in splits[split]):
        raise ValueError(f"split {split!r} in {splits_json} must be a list of file names")
    wanted = set(splits[split])
    kept = [image for image in images if image.path in wanted]
    missing = sorted(wanted - {image.path for image in kept})
    raise_problems(f"split {split!r} of {splits_json} names images that are not in the source", missing)
    return kept


def take(images: Iterable[SourceImage], limit: int, seed: int) -> list[SourceImage]:
    """Keep the ``limit`` images with the smallest keyed draws; which ones depends on ids and seed, not on the order.

    Streaming: memory is bounded by the limit.

    Args:
        images: the source.
        limit: images to keep; 0 keeps all.
        seed: the run's seed.

    Returns:
        At most ``limit`` images in ascending id order.

    Raises:
        ValueError: the limit is negative.
    """
    if limit < 0:
        raise ValueError(f"limit must be 0 (all images) or more, not {limit}")
    if limit == 0:
        return sorted(images)
    return sorted(
        image for _, image in heapq.nsmallest(limit, _with_draws(images, draws.stream(seed, "sources", "take")))
    )


def load_coco(path: str | Path, lists: tuple[str, ...]) -> dict[str, Any]:
    """Read a COCO JSON and check that it is an object with these lists.

    Raises:
        ValueError: the file is missing, no JSON, no object, or one of ``lists`` is missing or no list.
    """
    data = _load_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a COCO JSON: its top level is not an object")  # noqa: TRY004 - the file is bad
    raise_problems(
        f"{path} is not a COCO JSON", [f"no list {key!r}" for key in lists if not isinstance(data.get(key), list)]
    )
    return data


def raise_problems(title: str, problems: list[str]) -> None:
    """Raise a ValueError that lists the first ten problems and counts the rest; do nothing where there is none."""
    if problems:
        more = [f"... and {len(problems) - _MAX_LISTED} more"] if len(problems) > _MAX_LISTED else []
        raise ValueError("\n  ".join([f"{title}:", *problems[:_MAX_LISTED], *more]))


def is_id(value: object) -> bool:
    """Say whether a JSON value can be an id: an integer in [0, 2**63)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _load_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"no file at {path}") from error
    except ValueError as error:  # malformed JSON, or bytes that are no text
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _image_problem(row: object, seen: set[int]) -> str:
    if not isinstance(row, dict) or not is_id(row.get("id")):
        return "no integer 'id' in [0, 2**63)"
    if row["id"] in seen:
        return f"duplicate id {row['id']}"
    name = row.get("file_name")
    if not isinstance(name, str) or posixpath.normpath(name) == ".":
        return f"id {row['id']} has no 'file_name'"
    if posixpath.isabs(name):
        return f"file_name {name!r} is absolute; it must be relative to the image folder"
    if posixpath.normpath(name).split("/")[0] == "..":
        return f"file_name {name!r} leaves the image folder"
    return ""


def _walk(root: Path, prefix: str) -> Iterator[SourceImage]:
    with os.scandir(root / prefix) as found:
        entries = [entry for entry in found if not entry.name.startswith(".")]
    problems = [f"{prefix + entry.name!r} {problem}" for entry in entries if (problem := _entry_problem(entry, root))]
    counts: dict[str, int] = {}
    for entry in entries:
        plain = unicodedata.normalize("NFC", entry.name)
        counts[plain] = counts.get(plain, 0) + 1
    problems += [f"{prefix + name!r} is there twice, in two Unicode spellings" for name in counts if counts[name] > 1]
    raise_problems(f"bad entries in {root / prefix}", sorted(problems))
    # A folder sorts with its slash: "a.jpg" < "a/b.jpg" as whole paths, too.
    for name in sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries if _is_listed(entry)):
        if name.endswith("/"):
            yield from _walk(root, prefix + name)
        else:
            yield SourceImage(path_id(prefix + name), prefix + name)


def _is_listed(entry: os.DirEntry[str]) -> bool:
    """Folders, files and links (even broken ones: a missing file is found later) with an image's extension."""
    if entry.is_dir():
        return True
    return entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink())


def _entry_problem(entry: os.DirEntry[str], root: Path) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in entry.name):  # how Python spells bytes that are not UTF-8
        return "is not a UTF-8 name"
    if not entry.is_symlink() or not _is_listed(entry):
        return ""
    target = Path(os.path.realpath(entry.path))
    if not target.is_relative_to(root):
        return f"is a link that leaves the image folder, to {str(target)!r}"
    return "is a link to a folder, whose images would be listed twice" if entry.is_dir() else ""


def _with_draws(images: Iterable[SourceImage], key: int) -> Iterator[tuple[float, SourceImage]]:
    stream = iter(images)
    while batch := list(itertools.islice(stream, _DRAW_BATCH)):
        ids = np.array([image.image_id for image in batch], np.int64)
        yield from zip(draws.uniform(key, ids, 1)[:, 0].tolist(), batch, strict=True)
