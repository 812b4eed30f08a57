"""Garbage of a store: what no run record names."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orl_ray.occupancy import RUN_LEASES
from orl_ray.scenes.packs import ARTIFACT as PACKED
from orl_ray.scenes.sources import generated_names
from orl_ray.storage import Store

_CHECKPOINTS, _GENERATED, _LEASES = "checkpoints", "generated", "leases"


@dataclass(slots=True)
class Garbage:
    """What may go.

    Attributes:
        runs: ids of run records.
        keys: artifact -> keys of its parts and manifests.
        folders: paths of whole folders of other kinds, relative to the store.
        files: paths of files that parts left behind, relative to the store.
        half_written: what killed writers left behind; its bytes are not known.
        bytes: kind -> bytes, where a kind is an artifact, ``checkpoints``, ``generated`` or ``leases``.
    """

    runs: list[str] = field(default_factory=list)
    keys: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    bytes: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How much there is in all."""
        keys = sum(map(len, self.keys.values()))
        return len(self.runs) + keys + len(self.folders) + len(self.files) + len(self.half_written)


def find_garbage(store: Store, artifacts: Collection[str], keep_runs: int | None = None) -> Garbage:
    """Find what no run record names. Nothing is deleted.

    Named is what a run used, made, pinned, or was about to make when it ended: an interrupted run finds its finished
    parts and its checkpoints again.

    Args:
        store: the store; no run may be at it.
        artifacts: names of all artifacts that stages make; other folders are left alone.
        keep_runs: forget all run records but the newest so many, and find what only they name; None forgets none.

    Returns:
        The garbage. Memory: the keys of all parts.
    """
    found, named = Garbage(), defaultdict[str, set[str]](set)
    rendered: set[str] = set()
    for number, run in enumerate(store.runs(None)):
        if keep_runs is not None and number >= keep_runs:
            found.runs.append(run["run_id"])
            continue
        for artifact, key in _names(run):
            named[artifact].add(key)
        rendered |= generated_names(run["config"])
    for artifact in artifacts:
        _find_parts(store, artifact, named[artifact], found)
        for kind in (_CHECKPOINTS, _LEASES):
            _find_folders(store, f"{kind}/{artifact}", named[artifact], kind, found)
    _find_leftovers(store, PACKED, named[PACKED], found)
    _find_folders(store, _GENERATED, rendered, _GENERATED, found)
    _find_folders(store, RUN_LEASES, (), _LEASES, found)  # no run is at the store, so these are of dead ones
    found.half_written = list(store.root.half_written())
    return found


def delete_garbage(store: Store, garbage: Garbage) -> None:
    """Delete garbage: what names things before the things, so that nothing half-deleted is ever found.

    Args:
        store: the store; no run may be at it.
        garbage: what :func:`find_garbage` found.
    """
    for run_id in garbage.runs:
        store.root.delete(f"runs/{run_id}.json")
    for artifact, keys in garbage.keys.items():
        for key in keys:
            store.delete_manifest(artifact, key)
        for key in keys:
            store.delete_part(artifact, key)
    for path in garbage.folders:
        store.root.delete_folder(path)
    for path in garbage.files:
        store.root.delete(path)
    for remains in garbage.half_written:
        store.root.delete_half_written(remains)


def _names(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (artifact, key) of everything that a run record names."""
    for stage, pin in run.get("pins", {}).items():
        yield stage, pin["key"]
    for stage, entry in run["stages"].items():
        keys: Iterable[str] = [entry["key"], *entry["parts"].values(), *entry.get("missing", [])]
        yield from ((stage, key) for key in keys if key)


def _find_parts(store: Store, artifact: str, named: Collection[str], found: Garbage) -> None:
    """Find the parts, manifests and quarantine of an artifact that are not named."""
    sizes: Counter[str] = Counter()
    for folder in (artifact, f"quarantine/{artifact}"):
        for info in (store.root / folder).files():
            key = info.path.removeprefix("manifests/").partition("/")[0].partition(".")[0]
            if key not in named:
                sizes[key] += info.bytes
    if sizes:
        found.keys[artifact] = sorted(sizes)
        found.bytes[artifact] += sizes.total()


def _find_folders(store: Store, folder: str, named: Collection[str], kind: str, found: Garbage) -> None:
    """Find the folders right below a folder that are not named."""
    sizes: Counter[str] = Counter()
    for info in (store.root / folder).files():
        name = info.path.partition("/")[0]
        if name not in named:
            sizes[name] += info.bytes
    if sizes:
        found.folders += [f"{folder}/{name}" for name in sorted(sizes)]
        found.bytes[kind] += sizes.total()


def _find_leftovers(store: Store, artifact: str, named: set[str], found: Garbage) -> None:
    """Find files that a part's record does not name any more: the part was packed again, beside what it was."""
    for key in sorted(named & store.present(artifact)):
        record = store.record(artifact, key)
        stored = {entry.get("stored", name) for name, entry in record.files.items()} if record else set()
        for info in store.part_folder(artifact, key).files():
            if info.path not in stored:
                found.files.append(f"{artifact}/{key}/{info.path}")
                found.bytes[artifact] += info.bytes
