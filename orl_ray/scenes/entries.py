"""What every kind of source lists: images with their ids and paths, and entries that cannot be images."""

import hashlib
import posixpath
import unicodedata
from dataclasses import dataclass

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source; the fields are the columns of ``schema.LISTING``.

    Attributes:
        image_id: non-negative int64.
        path: relative to the source, with forward slashes; inside a container ``<container>/<member or row>``.
        bytes: size of the encoded image, -1 where it is not known.
        stamp: changes when the file does, "" where it is not known.
        container: the tar or Parquet file that the image lies in, relative to the source; None for a file of its own.
        offset: where in the container: byte in a tar, row in a Parquet file.
    """

    image_id: int
    path: str
    bytes: int = -1
    stamp: str = ""
    container: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class BadEntry:
    """Something in a source that stands for an image and cannot be one.

    Attributes:
        path: what people find it by, valid Unicode.
        reason: one line.
        image_id: its id where it has a usable one.
    """

    path: str
    reason: str
    image_id: int | None = None


Entry = SourceImage | BadEntry


def path_id(path: str) -> int:
    """Return the id of an image that has none: 63 bits of BLAKE2b of its relative posix path, in Unicode NFC and UTF-8.

    NFC makes the id the same whichever way a file system spells accents. Among 24 million images two share an id with
    a probability of about 3e-5.
    """
    digest = hashlib.blake2b(unicodedata.normalize("NFC", path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def is_id(value: object) -> bool:
    """Say whether a value can be an id: an integer in [0, 2**63)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_text(name: str) -> bool:
    """Say whether a name is valid Unicode: JSON escapes and file systems can give lone surrogates."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def readable(name: str) -> str:
    """Spell a name of any bytes in valid Unicode, with backslashes where it has none."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return name.encode("utf-8", "backslashreplace").decode()


def path_problem(path: str) -> str:
    """Say why a path cannot name an image inside a source, or ""."""
    if not is_text(path):
        return "the name is not valid Unicode"
    if "\0" in path:
        return "the name holds a zero byte"
    if posixpath.isabs(path):
        return "the path is absolute; it must be relative to the source"
    if posixpath.normpath(path).split("/")[0] == "..":
        return "the path leaves the source"
    return ""


def is_hidden(path: str) -> bool:
    """Say whether a path has a name that begins with a dot: what tools leave behind."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))
