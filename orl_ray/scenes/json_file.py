"""Read JSON files of any size, wherever they lie: the elements of top-level lists one at a time.

A sliding window of text goes through the decoder of the standard library, an element a call. Compared with an
event parser that takes what ``json`` takes (NaN too), serves several lists in one pass, and is faster.
"""

import codecs
import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from orl_ray.folders import Folder, file_at
from orl_ray.storage import digest_file

CHUNK_BYTES = 2**20
# A longer element is no row of a list of images or annotations.
MOST_ELEMENT_BYTES = 64 * 2**20
# An error closer to the end of the window may be due to the window.
_MARGIN = 1024
_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A JSON file in a folder, local or remote."""

    folder: Folder
    name: str

    @classmethod
    def at(cls, place: str) -> "JsonFile":
        """Return the file at a local path or URI."""
        return cls(*file_at(place))

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    def load(self) -> Any:
        """Read all of it.

        Raises:
            ValueError: there is no such file, or it is no JSON.
        """
        try:
            return json.loads(self.folder.read(self.name))
        except FileNotFoundError as error:
            raise ValueError(f"no file at {self}") from error
        except ValueError as error:  # malformed JSON, or bytes that are no text
            raise ValueError(f"{self} is not valid JSON: {error}") from error

    def lists(
        self, *wanted: str, optional: tuple[str, ...] = (), kind: str = "a COCO JSON"
    ) -> Iterator[tuple[str, int, Any]]:
        """Stream the elements of top-level lists, in the order of the file; nothing is read behind the last of them.

        Args:
            wanted: keys of the lists; ``images.id`` is the list ``id`` in the object ``images``.
            optional: those of them that may be missing.
            kind: what the file should be, for messages.

        Yields:
            (key, position in its list, element). Memory is bounded by one element and a window of 1 MB.

        Raises:
            ValueError: there is no such file, it is no JSON object, a list is missing or is none, or the JSON is
                broken; the message says where.
        """
        try:
            stream = self.folder.open(self.name)
        except FileNotFoundError as error:
            raise ValueError(f"no file at {self}") from error
        with stream:
            yield from stream_lists(stream, str(self), wanted, optional, kind)

    def member(self, name: str) -> Any:
        """Read one small member of the top level, or None where there is none; nothing is read behind it.

        Raises:
            ValueError: there is no such file, or it is no JSON object.
        """
        with self._members() as window:
            for key in window.members():
                if key == name:
                    return window.value()
                window.skip()
        return None

    def first_name(self) -> str:
        """Return the name of the first member of the top level, "" where there is none.

        Raises:
            ValueError: there is no such file, or it is no JSON object.
        """
        with self._members() as window:
            return next(window.members(), "")

    @contextlib.contextmanager
    def _members(self) -> Iterator["_Window"]:
        """Open the file at its top level, which must be an object."""
        try:
            stream = self.folder.open(self.name)
        except FileNotFoundError as error:
            raise ValueError(f"no file at {self}") from error
        with stream:
            window = _Window(stream, str(self), CHUNK_BYTES)
            if window.next() != "{":
                raise ValueError(f"{self}: its top level is not an object")
            yield window

    def fingerprint(self) -> str:
        """Hash what it holds. A remote file is read once a process, so that planning stays quick."""
        return digest_file(self.folder.local / self.name) if self.folder.is_local else _remote_digest(self)


def stream_lists(
    stream: BinaryIO,
    where: str,
    wanted: tuple[str, ...],
    optional: tuple[str, ...] = (),
    kind: str = "a COCO JSON",
    chunk: int = CHUNK_BYTES,
) -> Iterator[tuple[str, int, Any]]:
    """Stream the elements of top-level lists of a JSON object; see :meth:`JsonFile.lists`.

    Args:
        stream: the bytes, UTF-8.
        where: name of the file for messages.
        wanted: keys of the lists.
        optional: those of them that may be missing.
        kind: what the file should be, for messages.
        chunk: bytes read at a time.
    """
    window, ended = _Window(stream, where, chunk), set[str]()
    if window.next() != "{":
        raise ValueError(f"{where} is not {kind}: its top level is not an object")
    yield from _lists_of(window, "", wanted, ended, kind)
    if ended == set(wanted):
        return
    if window.next():
        raise window.broken("something stands behind its end")
    missing = [repr(key) for key in wanted if key not in ended and key not in optional]
    if missing:
        raise ValueError(f"{where} is not {kind}: no list {', '.join(missing)}")


def _lists_of(
    window: "_Window", prefix: str, wanted: tuple[str, ...], ended: set[str], kind: str
) -> Iterator[tuple[str, int, Any]]:
    """Stream the lists of the object that begins here, up to the last one that is wanted."""
    for name in window.members():
        key = f"{prefix}{name}"
        if key in wanted and key not in ended:
            if window.next() != "[":
                raise ValueError(f"{window.where} is not {kind}: no list {key!r}")
            for position, element in enumerate(window.elements()):
                yield key, position, element
            ended.add(key)
        elif window.next() == "{" and any(other.startswith(f"{key}.") for other in wanted):
            yield from _lists_of(window, f"{key}.", wanted, ended, kind)
        else:
            window.skip()
        if ended == set(wanted):
            return


class _Window:
    """The part of a JSON text that is being decoded."""

    def __init__(self, stream: BinaryIO, where: str, chunk: int) -> None:
        self._stream, self.where, self._chunk = stream, where, chunk
        self._to_text = codecs.getincrementaldecoder("utf-8-sig")()
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._gone, self._ended = "", 0, 0, False

    def next(self) -> str:
        """Return the next character that is no white space, without taking it; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._grow()

    def take(self, expected: str) -> None:
        """Take the next character, which must be this one."""
        found = self.next()
        if found != expected:
            raise self.broken(f"{expected!r} expected" if found else "it ends too early")
        self._at += 1

    def value(self) -> Any:
        """Take the next value whole."""
        if not self.next():
            raise self.broken("it ends too early")
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                within = error.pos < len(self._text) - _MARGIN and not error.msg.startswith("Unterminated")
                if within or self._ended:
                    raise self.broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise self.broken(str(error)) from error
            else:
                # A number at the edge of the window may go on: 1 as 12, or as 1.5, or as 1e+9.
                if self._ended or end + 3 <= len(self._text) or self._text[end : end + 1] in (",", "]", "}"):
                    self._at = end
                    return value
            if len(self._text) - self._at > MOST_ELEMENT_BYTES:
                raise self.broken(f"a value of more than {MOST_ELEMENT_BYTES >> 20} MB")
            self._grow()

    def elements(self) -> Iterator[Any]:
        """Take the list that begins here, an element at a time."""
        self.take("[")
        if self.next() != "]":
            yield self.value()
        while self.next() != "]":
            self.take(",")
            yield self.value()
        self.take("]")

    def members(self) -> Iterator[str]:
        """Take the object that begins here, a member at a time; the caller takes the value behind each key."""
        self.take("{")
        while self.next() != "}":
            key = self.value()
            self.take(":")
            yield key
            if self.next() != "}":
                self.take(",")
        self.take("}")

    def skip(self) -> None:
        """Take the next value, which may be a list of any size or an object of such lists, and forget it."""
        if self.next() == "[":
            for _ in self.elements():
                pass
        elif self.next() == "{":
            for _ in self.members():
                if self.next() == "[":
                    for _ in self.elements():
                        pass
                else:
                    self.value()
        else:
            self.value()

    def broken(self, problem: str, at: int | None = None) -> ValueError:
        """Say what is wrong, and where."""
        return ValueError(
            f"{self.where} is not valid JSON: {problem} (character {self._gone + (self._at if at is None else at)})"
        )

    def _grow(self) -> None:
        """Read on; at least as much as is open, so that a long element is not tried too often."""
        size = max(self._chunk, len(self._text) - self._at)
        data = self._stream.read(size)
        try:
            more = self._to_text.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where} is not valid JSON: {error}") from error
        self._gone += self._at
        self._text, self._at, self._ended = self._text[self._at :] + more, 0, not data


@functools.cache
def _remote_digest(file: JsonFile) -> str:
    content = hashlib.blake2b(digest_size=16)  # as of digest_file; the file may be larger than memory
    with file.folder.open(file.name) as stream:
        while data := stream.read(CHUNK_BYTES):
            content.update(data)
    return content.hexdigest()
