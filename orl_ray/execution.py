"""Carry a plan out.

Ray starts only if something is missing; stages run as soon as their inputs are there and their CPUs are free; the run
record says what was used and made.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

from orl_ray.cluster_probe import cluster_address
from orl_ray.config import FREEZABLE, Config, flatten
from orl_ray.node_preflight import check_nodes
from orl_ray.occupancy import at_work
from orl_ray.pins import Pin, copy_encoder, grown_share, resolve_pins
from orl_ray.pipeline import FINISHED, RUNNING, Stage, StagePlan, State, list_parts, next_to_run, plan, to_make
from orl_ray.preflight import Needs
from orl_ray.progress import Console, StageProgress, duration
from orl_ray.ray_session import ray_session
from orl_ray.rounds import Round
from orl_ray.scenes.takedowns import refuse_unfinished
from orl_ray.settings import Value
from orl_ray.storage import Store, new_run_id

# How long stages get to end by themselves when the run ends early.
_END_SECONDS = 30


class TooManyBadImagesError(RuntimeError):
    """More images went to quarantine than ``execution.max_bad_fraction`` allows."""


@dataclass(frozen=True, slots=True)
class StageRun:
    """What a stage's work gets: its plan, where to read and write, and how to report.

    Attributes:
        config: the config.
        store: the store.
        plan: the stage's plan; ``plan.missing`` is what to make.
        run_id: this run.
        cpus: CPUs that the stage may use.
        progress: where to report rows as they are done.
        stop: set when the run ends early: whoever waits in a stage's thread must look at it.
    """

    config: Config
    store: Store
    plan: StagePlan
    run_id: str
    cpus: int
    progress: StageProgress
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        run_id: the run.
        plans: the final plan of each stage.
        made: stage name -> (parts made, seconds) in this run.
        seconds: wall time.
        used_ray: whether anything had to be run.
        pins: stage name -> frozen result.
        again: keys of parts that are still to be made again.
        notes: lines for people: what a rescan found, warnings.
        round: which round the run is, where there are several.
    """

    run_id: str
    plans: list[StagePlan] = field(default_factory=list)
    made: dict[str, tuple[int, float]] = field(default_factory=dict)
    seconds: float = 0.0
    used_ray: bool = False
    pins: dict[str, Pin] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    round: Round | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked to do beside making what is missing.

    Attributes:
        rescan: "" leaves the source alone; ``quick`` compares listings and adds what is new; ``deep`` also reads every
            image of the source again and compares it with what was packed.
        retry_quarantined: read the images again that were quarantined at ingest.
        round: which round this is, where there are several.
    """

    rescan: str = ""
    retry_quarantined: bool = False
    round: Round | None = None


def needs_of(config: Config, plans: Sequence[StagePlan], request: Request) -> Needs:
    """Tell what a run needs beside its store."""
    stages, again = to_make(plans), bool(request.rescan) or request.retry_quarantined
    return Needs(
        source=again or any(stage.reads_source(config) for stage in stages),
        ray=again or bool(stages),
        training=any(stage.trains for stage in stages),
    )


def execute(
    config: Config, stages: Sequence[Stage], store: Store, console: Console, request: Request | None = None
) -> RunSummary:
    """Make everything that a config wants and the store lacks.

    Args:
        config: the config.
        stages: the graph, inputs before what reads them.
        store: a prepared store.
        console: where progress goes.
        request: what else to do.

    Returns:
        What was done.

    Raises:
        TooManyBadImagesError: too many images are in quarantine.
        PreflightError: nodes of the cluster do not see the store or the source.
        PinError: what ``config.freeze`` names is not there.
        StoreBusyError: housekeeping is at the store.
        UnfinishedTakedownError: a takedown was cut off.
        Exception: whatever a stage raised; what it had finished is kept, and the same command goes on from there.
    """
    summary = RunSummary(new_run_id(), round=request.round if request else None)
    with at_work(store, summary.run_id, config.execution.lease_seconds):
        refuse_unfinished(store)
        _execute(config, stages, store, console, request or Request(), summary)
    return summary


def _execute(
    config: Config, stages: Sequence[Stage], store: Store, console: Console, request: Request, summary: RunSummary
) -> None:
    """Carry a plan out, and keep the run record: what a run that is killed has named is no garbage."""
    started, status = time.monotonic(), "failed"
    try:
        summary.pins = resolve_pins(config, store)
        copy_encoder(store, summary.pins)
        _replan(config, stages, store, summary)
        if request.retry_quarantined:
            _plan_retries(store, summary)
            _replan(config, stages, store, summary)
        _check_quarantine(config, summary.plans, store)
        if request.rescan or any(stage_plan.state is State.RUN for stage_plan in summary.plans):
            summary.used_ray = True
            with ray_session(config, summary.run_id) as cpus:
                if cluster_address(config):  # a private Ray sees what this process sees
                    check_nodes(config, store, summary.run_id, source=needs_of(config, summary.plans, request).source)
                if request.rescan:
                    _rescan(config, stages, store, console, summary, cpus, deep=request.rescan == "deep")
                _run_stages(config, stages, store, console, summary, cpus)
        _warn_of_growth(config, console, summary)
        status = FINISHED
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C; the SIGTERM of ray job stop, which Ray turns into an exit
        status = "interrupted"
        raise
    finally:
        summary.seconds = time.monotonic() - started
        store.write_run(summary.run_id, _run_record(config, summary, status))


def _replan(config: Config, stages: Sequence[Stage], store: Store, summary: RunSummary) -> None:
    summary.plans = plan(config, stages, store, summary.pins, summary.again)
    list_parts(store, summary.plans)


def _plan_retries(store: Store, summary: RunSummary) -> None:
    """Mark the parts whose quarantine is to be tried again.

    Their manifests go first: a run that dies in between must not find a manifest that names what parts held before.
    """
    for stage_plan in summary.plans:
        keys = {record.key for record in stage_plan.records if record.quarantined} if stage_plan.stage.retries else ()
        if keys:
            summary.again.update(keys)
            store.delete_manifest(stage_plan.stage.name, stage_plan.key)


def _rescan(
    config: Config,
    stages: Sequence[Stage],
    store: Store,
    console: Console,
    summary: RunSummary,
    cpus: int,
    *,
    deep: bool,
) -> None:
    """Let the stages that read the source look at it again; what was not listed yet is listed now."""
    for stage_plan in summary.plans:
        rescan = stage_plan.stage.rescan
        if rescan is not None and stage_plan.state is State.DONE:
            progress = StageProgress(console, stage_plan.stage.title, 0, stage_plan.stage.unit)
            for line in rescan(StageRun(config, store, stage_plan, summary.run_id, cpus, progress), deep):
                console.line(line)
                summary.notes.append(line)
            _replan(config, stages, store, summary)
            store.write_run(summary.run_id, _run_record(config, summary, RUNNING))


def _warn_of_growth(config: Config, console: Console, summary: RunSummary) -> None:
    """Warn where the collection has outgrown what was frozen."""
    images = next((sum(r.rows for r in p.records) for p in summary.plans if p.stage.name == "scenes"), 0)
    limit = config.execution.max_grown_share
    for name, stage in FREEZABLE.items():
        share = grown_share(summary.pins[stage], images) if stage in summary.pins else 0.0
        if share > limit:
            line = (
                f"warning: the collection has grown by {share:.0%} since the frozen {name} was made, more than "
                f"execution.max_grown_share={limit:g}: run without freezing it to make it anew"
            )
            console.line(line)
            summary.notes.append(line)


def _run_stages(
    config: Config, stages: Sequence[Stage], store: Store, console: Console, summary: RunSummary, cpus: int
) -> None:
    running: dict[Future[float], StagePlan] = {}
    stop = threading.Event()
    with _stage_threads(len(stages), running, stop) as pool:
        while True:
            _replan(config, stages, store, summary)
            store.write_run(summary.run_id, _run_record(config, summary, RUNNING))
            _check_quarantine(config, summary.plans, store)
            budgets = {p.stage.name: p.stage.budget(config, cpus) for p in running.values()}
            while chosen := next_to_run(summary.plans, budgets, config, cpus):
                budgets[chosen.stage.name] = chosen.stage.budget(config, cpus)
                total = _rows_expected(chosen, summary.plans)
                progress = StageProgress(console, chosen.stage.title, total, chosen.stage.unit)
                stage_run = StageRun(config, store, chosen, summary.run_id, budgets[chosen.stage.name], progress, stop)
                console.line(f"{chosen.stage.title}: {chosen.reason}")
                running[pool.submit(_run_stage, stage_run)] = chosen
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done = running.pop(future)
                seconds = future.result()
                summary.made[done.stage.name] = (len(done.missing), seconds)
                summary.again -= {part.key for part in done.missing}
                console.line(f"{done.stage.title}: done in {duration(seconds)}")


@contextlib.contextmanager
def _stage_threads(
    count: int, running: Mapping[Future[float], StagePlan], stop: threading.Event
) -> Iterator[ThreadPoolExecutor]:
    """Threads for stages; an error or Ctrl-C ends what they wait for, instead of waiting for them.

    Ray is shut down behind them: a thread that is in one of its calls by then may never come out.
    """
    import ray

    pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix="stage")
    try:
        yield pool
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(running, timeout=_END_SECONDS)
        ray.shutdown()
        raise
    finally:
        pool.shutdown()


def _run_stage(run: StageRun) -> float:
    started = time.monotonic()
    run.plan.stage.work(run)
    if run.plan.stage.scope == "part":
        keys = {**{r.key: r.index for r in run.plan.records}, **{p.key: p.index for p in run.plan.missing}}
        records = run.store.records(run.plan.stage.name, keys)
        lost = sorted(set(keys) - set(records))
        if lost:
            raise RuntimeError(f"{run.plan.stage.title}: {len(lost)} parts were not written, first {lost[0]}")
        run.store.write_manifest(run.plan.stage.name, run.plan.key, list(records.values()))
    elif run.store.manifest(run.plan.stage.name, run.plan.key) is None:
        raise RuntimeError(f"{run.plan.stage.title}: ended without writing its manifest")
    return time.monotonic() - started


def _rows_expected(chosen: StagePlan, plans: Sequence[StagePlan]) -> int:
    """Rows that the missing parts will bring: as many as the rows of the parts they read."""
    if chosen.stage.scope == "collection":
        return 0
    source = next(entry.artifact for entry in chosen.stage.inputs if entry.scope == "part")
    wanted = {part.index for part in chosen.missing}
    records = next(p.records for p in plans if p.stage.name == source)
    return sum(record.rows for record in records if record.index in wanted)


def _check_quarantine(config: Config, plans: Sequence[StagePlan], store: Store) -> None:
    of_images = [p for p in plans if p.stage.unit == "images"]
    images = max((sum(record.rows + record.quarantined for record in p.records) for p in of_images), default=0)
    for stage_plan in plans:
        bad = sum(record.quarantined for record in stage_plan.records)
        if stage_plan.state is State.DONE and images and bad / images > config.execution.max_bad_fraction:
            retries = stage_plan.stage.retries
            remedy = "Mend them and run with --retry-quarantined" if retries else "Mend the source and use a new store"
            raise TooManyBadImagesError(
                f"{stage_plan.stage.title}: {bad} of {images} images are in quarantine, more than "
                f"execution.max_bad_fraction={config.execution.max_bad_fraction:g} allows. Most common reasons: "
                f"{_common_reasons(stage_plan, store)}. {remedy}, or raise the limit."
            )


def _common_reasons(stage_plan: StagePlan, store: Store) -> str:
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for record in stage_plan.records:
        if record.quarantined:
            for reason in store.quarantine(record.artifact, record.key)["reason"].to_pylist():
                kind = reason.partition(":")[0]  # behind the colon stand details of one image
                kinds[kind] += 1
                examples.setdefault(kind, reason)
    return "; ".join(f"{examples[kind]} ({count})" for kind, count in kinds.most_common(3))


def _run_record(config: Config, summary: RunSummary, status: str) -> dict[str, Any]:
    values: dict[str, Value] = flatten(config)
    return {
        "run_id": summary.run_id,
        "status": status,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(summary.seconds, 3),
        "config": values,
        "notes": summary.notes,
        **({"round": asdict(summary.round)} if summary.round else {}),
        "pins": {name: {"key": pin.key, "content_hash": pin.content_hash} for name, pin in summary.pins.items()},
        "stages": {
            p.stage.name: {
                "state": str(p.state),
                "reason": p.reason,
                "key": p.key,
                "version": p.stage.version,
                "settings": p.settings,
                "inputs": p.inputs,
                "content_hash": p.content_hash if p.state is State.DONE else "",
                "rows": sum(record.rows for record in p.records),
                "parts": {record.index: record.key for record in p.records},
                "missing": [part.key for part in p.missing],
                "made_here": summary.made.get(p.stage.name, (0, 0.0))[0],
            }
            for p in summary.plans
        },
    }
