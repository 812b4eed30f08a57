"""The stage contract and the plan: what each stage's parts are called, which exist, which are missing, and why.

A part's key is the hash of its stage's name and version, of the stage's semantic settings that differ from their
defaults, and of the *content* hashes of its input parts. So a part is made again exactly when something that
determines it changed, whoever asks.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from orl_ray.config import Config, flatten
from orl_ray.settings import Value, default, known_settings
from orl_ray.storage import PartRecord, Store, canonical_digest

if TYPE_CHECKING:
    from orl_ray.execution import StageRun

Scope = Literal["part", "collection"]
# Of a run record: its run has not ended, or was killed; has made all that it was asked for; imported, and ran no stage.
RUNNING, FINISHED, IMPORTED = "running", "finished", "imported"


def always(_config: Config) -> bool:
    """Tell that a stage always does something."""
    return True


@dataclass(frozen=True, slots=True)
class Input:
    """One artifact that a stage reads.

    Attributes:
        artifact: its name, which is the name of the stage that makes it.
        scope: ``part`` where part i of the output needs only part i of the input, ``collection`` where it needs all
            of it.
        when: tells whether a config's result depends on it; where not, the stage still waits for it.
    """

    artifact: str
    scope: Scope = "part"
    when: Callable[[Config], bool] = always


def no_reason(_config: Config) -> str:
    """Never skip a stage."""
    return ""


def no_identity(_config: Config) -> dict[str, Value]:
    """Add nothing to a stage's key."""
    return {}


def never(_config: Config) -> bool:
    """Tell that a stage never does something."""
    return False


def data_cpus(config: Config, total: int) -> int:
    """Budget a CPU a data worker: ``execution.data_workers``, or all there are."""
    return min(config.execution.data_workers or total, total)


def one_cpu(_config: Config, _total: int) -> int:
    """Budget the CPU of one task."""
    return 1


@dataclass(frozen=True, slots=True)
class Stage:
    """One box of the graph.

    Attributes:
        name: also the name of the artifact that it makes.
        title: what it does, in a few words for people.
        version: raised whenever the same inputs give other results, or a default changes.
        inputs: the artifacts that it reads and that determine its result.
        settings: semantic settings that determine its result; a section's name stands for all of the section.
        work: makes the missing parts of a :class:`StagePlan`.
        scope: ``part``: one output part an input part; ``collection``: one output, whose work writes the manifest.
        after: artifacts that it needs to run, but that leave its result unchanged (the layout of an index).
        unit: what its rows are.
        skip: gives the reason why a config does without this stage, or "".
        identity: gives further values of the key that are no settings (what a source is).
        budget: CPUs that it takes, given the config and the CPUs there are.
        retries: whether its work, on a part that exists, tries that part's quarantined images again.
        rescan: looks at the source again, on demand; returns lines for people. True asks for a deep check.
        reads_source: whether its work reads images where they came from, not from packs.
        trains: whether it takes the workers of a training.
    """

    name: str
    title: str
    version: int
    inputs: tuple[Input, ...]
    settings: tuple[str, ...]
    work: "Callable[[StageRun], None]"
    scope: Scope = "part"
    after: tuple[str, ...] = ()
    unit: str = "images"
    skip: Callable[[Config], str] = no_reason
    identity: Callable[[Config], dict[str, Value]] = no_identity
    budget: Callable[[Config, int], int] = data_cpus
    retries: bool = False
    rescan: "Callable[[StageRun, bool], list[str]] | None" = None
    reads_source: Callable[[Config], bool] = never
    trains: bool = False


class State(StrEnum):
    """What a plan found for a stage."""

    DONE = "done"
    RUN = "run"
    WAITS = "waits"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One wanted part: its number, its key, and the keys of the input parts that only it reads."""

    index: int
    key: str
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What is known of a stage before it runs.

    Attributes:
        stage: the stage.
        state: done, to run, waiting for an earlier stage, or skipped.
        reason: why, in words.
        key: key of the artifact as a whole, which names its manifest; "" where inputs are not known yet.
        wanted: all parts that belong to it.
        missing: parts to make.
        records: parts that exist, in part order.
        settings: settings in the key.
        inputs: artifact -> content hash of the whole of it.
        manifests: artifact -> key of its manifest, for every input and ``after``.
        listed: whether its own manifest is there. Where only that is missing, it has to be written.
    """

    stage: Stage
    state: State
    reason: str
    key: str = ""
    wanted: tuple[PartPlan, ...] = ()
    missing: tuple[PartPlan, ...] = ()
    records: tuple[PartRecord, ...] = ()
    settings: dict[str, Value] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    listed: bool = True

    @property
    def content_hash(self) -> str:
        """Hash of the artifact's content as a whole."""
        return collection_hash(self.records)


def collection_hash(records: Sequence[PartRecord]) -> str:
    """Hash the content of all parts of an artifact, in part order."""
    return canonical_digest([[record.index, record.content_hash] for record in records])


def semantic_settings(config: Config, names: Sequence[str]) -> dict[str, Value]:
    """Return the semantic settings under ``names`` that differ from their defaults.

    Args:
        config: the config.
        names: dotted names, or sections that stand for all of their settings.

    Raises:
        ValueError: a name matches no semantic setting.
    """
    known, values = known_settings(), flatten(config)
    chosen: dict[str, Value] = {}
    for name in names:
        matches = [entry for entry in known if entry == name or entry.startswith(f"{name}.")]
        semantic = [entry for entry in matches if known[entry].metadata["semantic"]]
        if not semantic:
            raise ValueError(f"{name} names no semantic setting")
        chosen.update({entry: values[entry] for entry in semantic if values[entry] != default(known[entry])})
    return chosen


def up_to(stages: Sequence[Stage], name: str, frozen: Mapping[str, Sequence[str]] | None = None) -> list[Stage]:
    """Return a stage and everything that it needs, in the same order.

    Args:
        stages: the graph.
        name: the stage.
        frozen: stages whose result is pinned -> the artifacts that they need nonetheless.

    Raises:
        ValueError: there is no stage of that name.
    """
    by_name = {stage.name: stage for stage in stages}
    if name not in by_name:
        raise ValueError(f"unknown stage {name!r}; the stages are {', '.join(by_name)}")
    wanted: set[str] = set()
    open_names = [name]
    while open_names:
        stage = by_name[open_names.pop()]
        if stage.name not in wanted:
            wanted.add(stage.name)
            needed = [*(entry.artifact for entry in stage.inputs), *stage.after]
            open_names += (frozen or {}).get(stage.name, needed)
    return [stage for stage in stages if stage.name in wanted]


class Pinned(Protocol):
    """A result that stands for a stage, whatever its inputs are now."""

    @property
    def key(self) -> str:
        """Key of its manifest."""

    @property
    def content_hash(self) -> str:
        """Hash of its content as a whole."""

    @property
    def records(self) -> tuple[PartRecord, ...]:
        """Its parts."""

    @property
    def made_for(self) -> str:
        """The artifact whose parts its own parts go with, part by part; "" where there is none."""

    def check(self, records: Sequence[PartRecord]) -> None:
        """Check that it goes with the parts of ``made_for`` that there are now.

        Raises:
            ValueError: it was made for others.
        """


def plan(
    config: Config,
    stages: Sequence[Stage],
    store: Store,
    pins: Mapping[str, Pinned] | None = None,
    again: Collection[str] = (),
) -> list[StagePlan]:
    """Compare what a config wants with what a store holds. Reads records only; starts nothing.

    Args:
        config: the config.
        stages: the graph, inputs before what reads them.
        store: the store.
        pins: stage name -> the result that is taken for it as it is.
        again: keys of parts that are to be made again though they exist.

    Returns:
        One plan a stage, in the same order.

    Raises:
        ValueError: a pin was made for other parts than there are.
    """
    previous = _last_known(store)
    plans: dict[str, StagePlan] = {}
    for stage in stages:
        if pins and stage.name in pins:
            plans[stage.name] = _pinned(stage, pins[stage.name], plans)
        else:
            made = _plan_stage(config, stage, store, plans, previous.get(stage.name, {}))
            plans[stage.name] = _retried(made, again) if again else made
    return list(plans.values())


def to_make(plans: Sequence[StagePlan]) -> list[Stage]:
    """Return the stages that have work to do, now or when others are done."""
    return [stage_plan.stage for stage_plan in plans if stage_plan.state in (State.RUN, State.WAITS)]


def list_parts(store: Store, plans: Sequence[StagePlan]) -> None:
    """Write the manifests that are missing of what is done: whoever wrote the last part may have died before that."""
    for stage_plan in plans:
        if stage_plan.state is State.DONE and not stage_plan.listed:
            store.write_manifest(stage_plan.stage.name, stage_plan.key, stage_plan.records)


def next_to_run(
    plans: Sequence[StagePlan], running: Mapping[str, int], config: Config, total_cpus: int
) -> StagePlan | None:
    """Choose the next stage to start: the first one to run whose CPUs are free, or the first one if nothing runs.

    Args:
        plans: the present plan.
        running: stage name -> CPUs of the stages that run now.
        config: the config.
        total_cpus: CPUs there are.

    Returns:
        A plan in state ``run``, or None.
    """
    free = total_cpus - sum(running.values())
    for stage_plan in plans:
        if stage_plan.state is not State.RUN or stage_plan.stage.name in running:
            continue
        if not running or stage_plan.stage.budget(config, total_cpus) <= free:
            return stage_plan
    return None


def _last_known(store: Store) -> dict[str, Any]:
    """Return what the newest run that got as far as each stage knew of it."""
    known: dict[str, Any] = {}
    for run in store.runs():
        if run.get("status") in (RUNNING, IMPORTED):  # this very run, or one that was killed; no run of stages
            continue
        for name, entry in run["stages"].items():
            if entry["key"] and name not in known:
                known[name] = entry
    return known


def _pinned(stage: Stage, pin: Pinned, plans: Mapping[str, StagePlan]) -> StagePlan:
    if pin.made_for:
        if plans[pin.made_for].state is not State.DONE:
            return StagePlan(stage, State.WAITS, f"frozen, needs {pin.made_for}")
        pin.check(plans[pin.made_for].records)
    reason = f"frozen: content {pin.content_hash}"
    return StagePlan(stage, State.DONE, reason, key=pin.key, records=pin.records)


def _retried(made: StagePlan, again: Collection[str]) -> StagePlan:
    """Plan the parts named in ``again`` as missing; their records stay, so that their work can build on them."""
    records = {record.key: record for record in made.records}
    parts = [part for part in made.wanted if part.key in again and part.key in records]
    if not parts:
        return made
    kept = tuple(record for record in made.records if record.key not in again)
    missing = tuple(sorted((*made.missing, *parts), key=lambda part: part.index))
    return replace(made, state=State.RUN, reason=f"{len(parts)} parts to try again", missing=missing, records=kept)


def _plan_stage(
    config: Config, stage: Stage, store: Store, plans: Mapping[str, StagePlan], previous: Mapping[str, Any]
) -> StagePlan:
    if reason := stage.skip(config):
        return StagePlan(stage, State.SKIPPED, reason)
    needed = list(dict.fromkeys([*(entry.artifact for entry in stage.inputs), *stage.after]))
    waiting = [name for name in needed if plans[name].state not in (State.DONE, State.SKIPPED)]
    if waiting:
        return StagePlan(stage, State.WAITS, f"needs {', '.join(waiting)}")
    settings = semantic_settings(config, stage.settings) if stage.settings else {}
    parts = _wanted_parts(config, stage, settings, plans)
    key = parts[0].key if stage.scope == "collection" else canonical_digest([part.key for part in parts])
    listed = store.manifest(stage.name, key)
    records = _present_records(store, stage, listed, parts)
    present = {record.key for record in records}
    missing = () if stage.scope == "collection" and records else tuple(p for p in parts if p.key not in present)
    inputs = {entry.artifact: plans[entry.artifact].content_hash for entry in stage.inputs if entry.when(config)}
    share = f"{len(missing)} of {len(parts)} parts to make" if len(parts) > 1 else "to make"
    return StagePlan(
        stage=stage,
        state=State.RUN if missing else State.DONE,
        reason=_explain(stage, previous, settings, inputs, share) if missing else "up to date",
        key=key,
        wanted=tuple(parts),
        missing=missing,
        records=tuple(records),
        settings=settings,
        inputs=inputs,
        manifests={name: plans[name].key for name in needed if plans[name].state is State.DONE},
        listed=listed is not None,
    )


def _wanted_parts(
    config: Config, stage: Stage, settings: Mapping[str, Value], plans: Mapping[str, StagePlan]
) -> list[PartPlan]:
    whole = {
        entry.artifact: plans[entry.artifact].content_hash
        for entry in stage.inputs
        if entry.when(config) and (stage.scope == "collection" or entry.scope == "collection")
    }
    base = {"stage": stage.name, "version": stage.version, "settings": settings, "identity": stage.identity(config)}
    if stage.scope == "collection":
        return [PartPlan(0, canonical_digest({**base, "inputs": whole}))]
    sliced = [entry.artifact for entry in stage.inputs if entry.scope == "part"]
    by_artifact = {name: {record.index: record for record in plans[name].records} for name in sliced}
    parts = []
    for index in sorted(by_artifact[sliced[0]]):
        records = {name: by_artifact[name][index] for name in sliced}
        own = {name: record.content_hash for name, record in records.items()}
        key = canonical_digest({**base, "part": index, "part_inputs": own, "inputs": whole})
        parts.append(PartPlan(index, key, {name: record.key for name, record in records.items()}))
    return parts


def _present_records(
    store: Store, stage: Stage, records: Sequence[PartRecord] | None, parts: Sequence[PartPlan]
) -> list[PartRecord]:
    if records is None:
        found = store.records(stage.name, [part.key for part in parts]) if stage.scope == "part" else {}
        return [found[part.key] for part in parts if part.key in found]
    present = store.present(stage.name)  # a part that was deleted is made again, whatever the manifest says
    kept = [record for record in records if record.key in present]
    return kept if stage.scope == "part" or len(kept) == len(records) else []


def _explain(
    stage: Stage, previous: Mapping[str, Any], settings: Mapping[str, Value], inputs: Mapping[str, str], share: str
) -> str:
    if not previous:
        return f"{share}: not made before"
    known = known_settings()
    before = previous["settings"]
    changes = [
        f"{name} {before.get(name, default(known[name]))} -> {settings.get(name, default(known[name]))}"
        for name in sorted({*before, *settings})
        if name in known and before.get(name) != settings.get(name)
    ]
    if previous["version"] != stage.version:
        changes.append(f"stage version {previous['version']} -> {stage.version}")
    changes += [f"{name} changed" for name in inputs if previous["inputs"].get(name) != inputs[name]]
    return f"{share}: {'; '.join(changes)}" if changes else share
