"""Garbage of a store: what no run record names."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orl_ray.folders import FileInfo
from orl_ray.occupancy import ALONE, RUN_LEASES
from orl_ray.pipeline import FINISHED
from orl_ray.pretraining.checkpoint_names import is_kept
from orl_ray.scenes.packs import ARTIFACT as PACKED
from orl_ray.scenes.sources import generated_names
from orl_ray.storage import Store

_CHECKPOINTS, _GENERATED, _LEASES = "checkpoints", "generated", "leases"
_RAY_TRAIN, _LOGS = "ray_train", "training_logs"
# Folders of a store beside those of its artifacts.
OURS = ("quarantine", "runs", "takedowns", _CHECKPOINTS, _GENERATED, _LEASES, _RAY_TRAIN, _LOGS)


@dataclass(slots=True)
class Garbage:
    """What may go.

    Attributes:
        runs: ids of run records.
        keys: artifact -> keys of its parts and manifests.
        folders: paths of whole folders of other kinds, relative to the store.
        files: paths of files that parts left behind, relative to the store.
        half_written: what killed writers left behind; its bytes are not known.
        bytes: kind -> bytes, where a kind is an artifact, ``checkpoints``, ``training_logs``, ``ray_train``,
            ``generated`` or ``leases``.
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

    Named is what a run used, made, pinned, or was about to make when it ended, and what that builds on: the parts that
    a named manifest lists, the packs that a named part of the scenes lies in.

    Args:
        store: the store; no run may be at it.
        artifacts: names of all artifacts that stages make; other folders are left alone.
        keep_runs: forget all run records that are older than the newest so many finished runs, and find what only
            they name; None forgets none. Unfinished runs and imports do not count, and stay with the older one. The
            rounds that a run builds on count and stay with it.

    Returns:
        The garbage. Memory: the keys of all parts.
    """
    found, named, rendered = Garbage(), defaultdict[str, set[str]](set), set[str]()
    kept = None if keep_runs is None else _kept_runs(store, keep_runs)
    for run in store.runs(None):
        if kept is not None and run["run_id"] not in kept:
            found.runs.append(run["run_id"])
            continue
        for artifact, key in _names(run):
            named[artifact].add(key)
        rendered |= generated_names(run["config"])
    _follow(store, artifacts, named)
    for artifact in artifacts:
        _find_parts(store, artifact, named[artifact], found)
        _find_checkpoints(store, artifact, named[artifact], found)
        _find_folders(store, f"{_LOGS}/{artifact}", named[artifact], _LOGS, found)
        _find_folders(store, f"{_LEASES}/{artifact}", named[artifact], _LEASES, found)
        found.half_written += store.root.half_written(artifact)
    for info in unrecorded_files(store, PACKED):
        if info.path.split("/")[1] in named[PACKED]:
            found.files.append(info.path)
            found.bytes[PACKED] += info.bytes
    _find_folders(store, _GENERATED, rendered, _GENERATED, found)
    # No run is at the store: what runs left here is of dead ones.
    _find_folders(store, RUN_LEASES, (), _LEASES, found)
    _find_folders(store, _LEASES, {*artifacts, *RUN_LEASES.split("/"), ALONE}, _LEASES, found)
    _find_folders(store, _RAY_TRAIN, (), _RAY_TRAIN, found)
    for folder in OURS:
        found.half_written += store.root.half_written(folder)
    return found


def unrecorded_files(store: Store, artifact: str) -> Iterator[FileInfo]:
    """Yield the files in folders of parts that no record of a part names, with paths relative to the store.

    A part that is packed again is written beside what it was; a writer that is killed leaves files without a record.
    """
    folder = store.root / artifact
    stored: dict[str, set[str]] = {}
    for info in folder.files():
        key, inside, name = info.path.partition("/")
        if not inside or key == "manifests":
            continue
        if key not in stored:
            record = store.record(artifact, key)
            stored = {key: {entry.get("stored", name) for name, entry in record.files.items()} if record else set()}
        if name not in stored[key]:
            yield replace(info, path=f"{artifact}/{info.path}")


def delete_garbage(store: Store, garbage: Garbage) -> None:
    """Delete garbage: what names things before the things, so that nothing half-deleted is ever found.

    Args:
        store: the store; no run may be at it.
        garbage: what :func:`find_garbage` found.
    """
    for run_id in garbage.runs:
        store.root.delete(f"runs/{run_id}.json")
    for artifact, keys in reversed(garbage.keys.items()):  # what builds on things before the things
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


def _kept_runs(store: Store, keep_runs: int) -> set[str]:
    """Return the ids of the newest finished runs, of newer ones that did not finish, and of what they build on."""
    runs = [(run["run_id"], _is_finished(run), run.get("round", {}).get("builds_on", [])) for run in store.runs(None)]
    bases = {base for _, _, builds_on in runs for base in builds_on}
    kept: set[str] = set()
    finished = 0
    for run_id, is_finished, builds_on in runs:
        if run_id in bases:  # goes with the rounds that build on it
            continue
        if finished >= keep_runs:
            break
        kept.update([run_id, *builds_on])
        finished += is_finished  # others may not know yet what they would use
    return kept


def _is_finished(run: Mapping[str, Any]) -> bool:
    """Tell whether a run is finished, with all rounds of its command."""
    position = run.get("round", {"number": 1, "of": 1})
    return bool(run["status"] == FINISHED and position["number"] == position["of"])


def _names(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (artifact, key) of everything that a run record names."""
    for stage, pin in run.get("pins", {}).items():
        yield stage, pin["key"]
    for stage, entry in run["stages"].items():
        keys: Iterable[str] = [entry["key"], *entry["parts"].values(), *entry.get("missing", [])]
        yield from ((stage, key) for key in keys if key)


def _follow(store: Store, artifacts: Collection[str], named: dict[str, set[str]]) -> None:
    """Add what that which is named builds on."""
    for artifact in artifacts:
        manifests = {name.removesuffix(".json") for name in store.root.names(f"{artifact}/manifests")}
        for key in manifests & named[artifact]:
            named[artifact].update(record.key for record in store.manifest(artifact, key) or [])
    # Keys are made of content, so a part of the scenes may point to packs that an earlier run made under another key.
    for record in store.records("scenes", sorted(named["scenes"])).values():
        named[PACKED].add(record.facts[PACKED])


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


def _find_checkpoints(store: Store, artifact: str, named: set[str], found: Garbage) -> None:
    """Find the checkpoints of what is not named, and those of finished trainings that were only to go on from."""
    folder, done = f"{_CHECKPOINTS}/{artifact}", named & store.present(artifact)
    _find_folders(store, folder, named, _CHECKPOINTS, found)
    for info in (store.root / folder).files():
        key, _, path = info.path.partition("/")
        if key in done and not is_kept(path.partition("/")[0]):
            found.files.append(f"{folder}/{info.path}")
            found.bytes[_CHECKPOINTS] += info.bytes


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
