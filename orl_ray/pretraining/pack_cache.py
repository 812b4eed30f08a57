"""Packed scenes on this node's disk: fetched from the store when they are needed, at most so many bytes of them.

All processes of a node share the folder. A pack appears in it whole, under its name; a lock beside it keeps two
processes from fetching it at once, and the oldest-used packs go when room is needed. What is being read while it goes
stays readable, and what is gone is fetched again.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from orl_ray.scenes.packs import ARTIFACT, read_range
from orl_ray.storage import Store

_ROOM = ".room"


class Pack(NamedTuple):
    """One file of packed images in the store.

    Attributes:
        key: its part of ``packed_scenes``.
        name: its name there, which holds a hash of its content.
        bytes: its size.
    """

    key: str
    name: str
    bytes: int


class PackCache:
    """Packs behind a folder. Safe to share between threads; each process opens its own on the same folder.

    Args:
        folder: the node's folder; made where there is none.
        store: where the packs are.
        packs: all packs that may be read.
        limit: most bytes to keep; one pack is kept in any case.
    """

    def __init__(self, folder: Path, store: Store, packs: list[Pack], limit: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._store, self._packs, self._limit = folder, store, packs, limit
        self._holds_all = sum(pack.bytes for pack in packs) <= limit
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="packs")
        self._asked: set[int] = set()

    def read(self, number: int, offset: int, size: int, content_hash: str, *, whole: bool) -> bytes:
        """Return bytes of a pack.

        Args:
            number: of the pack.
            offset: where they begin.
            size: their number.
            content_hash: of these bytes, checked where they are read alone.
            whole: fetch all of the pack if it is not here: more of it will be wanted soon. Otherwise only these bytes
                are fetched, unless the folder has room for everything.

        Raises:
            StoreError: the pack is not in the store, or changed since it was written.
        """
        while (data := self._from_folder(number, offset, size)) is None:
            if not (whole or self._holds_all):
                pack = self._packs[number]
                return read_range(self._store, pack.key, pack.name, offset, size, content_hash)
            self._fetch(number)
        return data

    def expect(self, numbers: Iterable[int]) -> None:
        """Fetch packs in the background. What goes wrong there goes wrong again, and is raised, when they are read."""
        for number in numbers:
            if number not in self._asked and not self._path(number).exists():
                self._asked.add(number)
                self._ahead.submit(self._fetch_expected, number)

    def _from_folder(self, number: int, offset: int, size: int) -> bytes | None:
        path = self._path(number)
        try:
            with path.open("rb") as file:
                now = time.time_ns()
                os.utime(file.fileno(), ns=(now, now))  # its last use
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:
            return None

    def _fetch_expected(self, number: int) -> None:
        try:
            self._fetch(number)
        finally:
            self._asked.discard(number)

    def _fetch(self, number: int) -> None:
        """Bring a pack into the folder, unless another process does so meanwhile."""
        pack, path = self._packs[number], self._path(number)
        with _locked(path.with_suffix(".lock")):
            if path.exists():
                return
            data = self._store.read_file(ARTIFACT, pack.key, pack.name)
            half = path.with_suffix(".half")
            with _locked(self._folder / _ROOM):
                self._make_room(len(data))
                half.write_bytes(data)
                half.replace(path)

    def _make_room(self, size: int) -> None:
        found = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob("*.bin"))
        held = sum(length for _, length, _ in found)
        for _, length, path in found:
            if held + size <= self._limit:
                break
            path.unlink()
            held -= length

    def _path(self, number: int) -> Path:
        pack = self._packs[number]
        return self._folder / f"{pack.key}-{pack.name}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between threads and processes; the system lets go of a dead process' locks."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
