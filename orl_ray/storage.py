"""The store: one folder, local or in a bucket, with every artifact, its records, manifests, run records, quarantine.

A part is a folder ``<artifact>/<key>/`` of files plus the record ``<artifact>/<key>.json``, which is written last:
what has no record does not exist, so nothing half-written is ever read. A manifest
``<artifact>/manifests/<key>.json`` lists the records of a whole artifact. Nothing is pickled: tables are Parquet or
Arrow IPC, weights are safetensors, the rest is JSON.
"""

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orl_ray import schema
from orl_ray.folders import Folder

TABLE = "part.parquet"
MARKER = "orl_store.json"


class StoreError(RuntimeError):
    """A store cannot be used as it is: another version, a missing part, content that does not match its hash."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What is known of one written part.

    Attributes:
        artifact: name of the artifact.
        key: hash of everything that determines the part.
        index: part number.
        rows: rows (images, pairs, steps) in it.
        files: file name -> {"hash", "bytes"}, and "stored" where the file lies under another name.
        content_hash: hash over the files' names and hashes; what keys downstream build on.
        quarantined: images that were left out, with a reason in the quarantine.
        seconds: time spent making it.
        environment: versions and device that made it; for people, never part of a key.
        facts: small results that people or later stages read without opening the files.
    """

    artifact: str
    key: str
    index: int
    rows: int
    files: dict[str, dict[str, Any]]
    content_hash: str
    quarantined: int = 0
    seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())


def digest(data: bytes | memoryview) -> str:
    """Hash bytes to 32 hexadecimal digits (BLAKE2b, 128 bit)."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """Hash a file of any size, as :func:`digest` would hash its bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def canonical_digest(value: object) -> str:
    """Hash a JSON-able value by its canonical JSON: sorted names, no spaces, no NaN."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def parquet_bytes(table: pa.Table) -> memoryview:
    """Serialise a table so that equal content gives equal bytes: one chunk, pinned codec, version and row groups."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", version="2.6", row_group_size=4096)
    return memoryview(sink.getvalue())


def ipc_bytes(table: pa.Table) -> memoryview:
    """Serialise a table as one uncompressed Arrow IPC batch, so that vectors can be memory-mapped."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return memoryview(sink.getvalue())


class Store:
    """A store in a local folder or a bucket. Cheap to build, safe to send to workers, holds no open files.

    Args:
        root: the folder; made on the first write.
    """

    def __init__(self, root: str | Path | Folder) -> None:
        self.root = Folder(root)

    def prepare(self) -> None:
        """Create the store where there is none yet.

        Raises:
            StoreError: as :meth:`check`.
        """
        self.check()
        if not self.root.exists(MARKER):
            self.write_json(MARKER, {"version": schema.STORE_VERSION})

    def check(self) -> None:
        """Check that the folder is a store of our version, or can become one; write nothing.

        Raises:
            StoreError: the folder holds a store of another version, or something else.
        """
        marker = self.read_json(MARKER)
        if marker is None:
            names = self.root.names()
            if names and MARKER not in names:  # another run may have made it just now
                raise StoreError(f"{self.root} is not empty and not a store; name an empty or a new folder")
        elif marker.get("version") != schema.STORE_VERSION:
            raise StoreError(
                f"{self.root} is a store of version {marker.get('version')}; this orl_ray reads and writes version "
                f"{schema.STORE_VERSION}. Name a new store, or use the orl_ray that wrote this one."
            )

    def require(self) -> None:
        """Check that this is a store of our version; write nothing.

        Raises:
            StoreError: as :meth:`check`, or there is none.
        """
        self.check()
        if not self.root.exists(MARKER):
            raise StoreError(f"{self.root} is no store: there is nothing in it")

    def write_json(self, path: str, value: object) -> None:
        """Write JSON for people and machines, whole or not at all; ``path`` is relative to the root."""
        self.root.write(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode())

    def read_json(self, path: str) -> Any | None:
        """Read JSON, or None where there is no such file; ``path`` is relative to the root."""
        try:
            return json.loads(self.root.read(path))
        except FileNotFoundError:
            return None

    def part_folder(self, artifact: str, key: str) -> Folder:
        """Return the folder of a part's files."""
        return self.root / f"{artifact}/{key}"

    def write_part_file(
        self, artifact: str, key: str, name: str, data: bytes | memoryview, *, beside: bool = False
    ) -> dict[str, Any]:
        """Write one file of a part before the part is complete; nobody sees it until the record names it.

        Args:
            artifact: name of the artifact.
            key: the part's key.
            name: the file's name in the record.
            data: its bytes.
            beside: store it under a name of its content, beside what the part's present record names: a part that is
                made again stays whole until its new record is there.

        Returns:
            What :meth:`write_part` takes as an entry of ``written``.
        """
        content = digest(data)
        stored = f"{content}-{name}" if beside else name
        self.root.write(f"{artifact}/{key}/{stored}", data)
        return {"hash": content, "bytes": len(data), **({"stored": stored} if beside else {})}

    def write_part(
        self,
        artifact: str,
        key: str,
        index: int,
        files: Mapping[str, bytes | memoryview],
        *,
        rows: int,
        written: Mapping[str, dict[str, Any]] | None = None,
        quarantine: Sequence[tuple[int, str, str]] = (),
        seconds: float = 0.0,
        environment: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> PartRecord:
        """Write a part's files, then its quarantine, then its record. Writing the same part twice is harmless.

        Args:
            artifact: name of the artifact.
            key: the part's key.
            index: the part's number.
            files: file name -> bytes.
            rows: rows in the part.
            written: file name -> entry of each file that :meth:`write_part_file` wrote already.
            quarantine: (image id, path, reason) of each image left out.
            seconds: time spent making the part.
            environment: versions and device, for people.
            facts: small results to keep in the record.

        Returns:
            The record.
        """
        entries = dict(written or {})
        entries.update({name: self.write_part_file(artifact, key, name, data) for name, data in files.items()})
        if quarantine:
            columns = list(zip(*sorted(quarantine), strict=True))
            table = pa.table([pa.array(column) for column in columns], schema=schema.QUARANTINE)
            self.root.write(_quarantine_path(artifact, key), parquet_bytes(table))
        else:
            self.root.delete(_quarantine_path(artifact, key))  # of an earlier try that did not end
        record = PartRecord(
            artifact=artifact,
            key=key,
            index=index,
            rows=rows,
            files=entries,
            content_hash=_content_hash({name: entry["hash"] for name, entry in entries.items()}),
            quarantined=len(quarantine),
            seconds=round(seconds, 3),
            environment=dict(environment or {}),
            facts=dict(facts or {}),
        )
        self.write_json(_record_path(artifact, key), asdict(record))
        return record

    def holds(
        self,
        artifact: str,
        key: str,
        files: Mapping[str, bytes | memoryview],
        written: Mapping[str, dict[str, Any]],
    ) -> bool | None:
        """Tell whether a part holds exactly what is about to be written as it; None where there is no such part.

        Args:
            artifact: name of the artifact.
            key: the part's key.
            files: file name -> bytes, as :meth:`write_part` takes them.
            written: as :meth:`write_part` takes them.
        """
        record = self.record(artifact, key)
        if record is None:
            return None
        hashes = {name: entry["hash"] for name, entry in written.items()}
        hashes.update({name: digest(data) for name, data in files.items()})
        return record.content_hash == _content_hash(hashes)

    def record(self, artifact: str, key: str) -> PartRecord | None:
        """Return a part's record, or None where the part was not written."""
        value = self.read_json(_record_path(artifact, key))
        return None if value is None else PartRecord(**value)

    def records(self, artifact: str, keys: Iterable[str]) -> dict[str, PartRecord]:
        """Return the records of those of ``keys`` that were written, after one listing of the artifact's folder."""
        present = self.present(artifact)
        wanted = [key for key in keys if key in present]
        with ThreadPoolExecutor(1 if self.root.is_local else _REMOTE_READS) as pool:
            found = zip(wanted, pool.map(lambda key: self.record(artifact, key), wanted), strict=True)
            return {key: record for key, record in found if record is not None}

    def present(self, artifact: str) -> set[str]:
        """Return the keys of all parts of an artifact that were written, by one listing of its folder."""
        return {name.removesuffix(".json") for name in self.root.names(artifact) if name.endswith(".json")}

    def read_file(self, artifact: str, key: str, name: str) -> bytes:
        """Read one file of a part and check it against its record.

        Raises:
            StoreError: no such part or file, or its bytes changed since they were written.
        """
        record = self.record(artifact, key)
        if record is None or name not in record.files:
            raise StoreError(f"{artifact} {key}: no file {name}; run the pipeline again to make it")
        data = b""
        with contextlib.suppress(FileNotFoundError):
            data = self.root.read(f"{artifact}/{key}/{record.files[name].get('stored', name)}")
        if digest(data) != record.files[name]["hash"]:
            raise StoreError(
                f"{artifact} {key}: {name} is gone or changed since it was written; delete {key}.json and run again"
            )
        return data

    def read_table(
        self, artifact: str, key: str, name: str = TABLE, *, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read one table (Parquet, or Arrow IPC by the suffix ``.arrow``) of a part, or some of its columns."""
        data = pa.py_buffer(self.read_file(artifact, key, name))
        # pq.read_table would load Arrow's data set library and start threads: 40 MB in each worker, for a small file.
        is_parquet = not name.endswith(".arrow")
        file = pq.ParquetFile(pa.BufferReader(data)) if is_parquet else pa.ipc.open_file(data)
        names = (file.schema_arrow if is_parquet else file.schema).names
        if missing := [column for column in columns or () if column not in names]:
            raise StoreError(f"{artifact} {key}: {name} has no column {missing[0]}")
        if not is_parquet:
            table = file.read_all()
            return table if columns is None else table.select(list(columns))
        return file.read(columns=None if columns is None else list(columns), use_threads=False)

    def write_manifest(self, artifact: str, key: str, records: Sequence[PartRecord]) -> None:
        """Write a manifest; records go in part order."""
        rows = [asdict(record) for record in sorted(records, key=lambda record: record.index)]
        self.write_json(f"{artifact}/manifests/{key}.json", rows)

    def manifest(self, artifact: str, key: str) -> list[PartRecord] | None:
        """Read a manifest, in part order, or None where there is none."""
        rows = self.read_json(f"{artifact}/manifests/{key}.json")
        return None if rows is None else [PartRecord(**row) for row in rows]

    def collection(self, artifact: str, key: str) -> list[PartRecord]:
        """Read a manifest that has to be there, in part order: without it a collection would look like an empty one.

        Raises:
            StoreError: there is none.
        """
        records = self.manifest(artifact, key)
        if records is None:
            raise StoreError(f"{artifact}: manifest {key} is gone; run the pipeline again, which writes it anew")
        return records

    def delete_manifest(self, artifact: str, key: str) -> None:
        """Delete a manifest, not the parts that it names; fine where there is none."""
        self.root.delete(f"{artifact}/manifests/{key}.json")

    def delete_part(self, artifact: str, key: str) -> None:
        """Delete a part, its record first; fine where there is none. Manifests that name it must be gone already."""
        self.root.delete(_record_path(artifact, key))
        self.root.delete_folder(f"{artifact}/{key}")
        self.root.delete(_quarantine_path(artifact, key))

    def quarantine(self, artifact: str, key: str) -> pa.Table:
        """Return the images that a part left out, empty where there are none."""
        try:
            return pq.read_table(pa.BufferReader(self.root.read(_quarantine_path(artifact, key))))
        except FileNotFoundError:
            return schema.QUARANTINE.empty_table()

    def write_run(self, run_id: str, value: Mapping[str, Any]) -> None:
        """Write a run record: what the run used, made and re-used."""
        self.write_json(f"runs/{run_id}.json", dict(value))

    def runs(self, limit: int | None = 20) -> Iterator[dict[str, Any]]:
        """Yield run records, newest first, at most ``limit`` of them."""
        names = sorted((name for name in self.root.names("runs") if name.endswith(".json")), reverse=True)
        for name in names[:limit]:
            record = self.read_json(f"runs/{name}")
            if record is not None:
                yield record


# Requests for small records that are under way at once, to a bucket.
_REMOTE_READS = 16


def _content_hash(hashes: Mapping[str, str]) -> str:
    return canonical_digest(dict(hashes))


def _record_path(artifact: str, key: str) -> str:
    return f"{artifact}/{key}.json"


def _quarantine_path(artifact: str, key: str) -> str:
    return f"quarantine/{artifact}/{key}.parquet"


def new_run_id() -> str:
    """Return an id for a run that sorts by time: UTC seconds and a random tail."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
