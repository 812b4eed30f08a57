"""The command line of the main job: check the settings, say what would run, run it, say what was done."""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

from orl_ray.checks import PreflightError
from orl_ray.config import Config
from orl_ray.execution import Request, RunSummary, execute, needs_of
from orl_ray.occupancy import StoreBusyError
from orl_ray.options import add_settings, config_of
from orl_ray.pins import PinError, resolve_pins
from orl_ray.pipeline import Stage, StagePlan, State, plan
from orl_ray.preflight import Needs, check_endpoints
from orl_ray.progress import Console, duration, table
from orl_ray.rounds import Round, known_rounds, neighbor_overlap, next_round, stages_of_round
from orl_ray.scenes.takedowns import UnfinishedTakedownError
from orl_ray.settings import settings_help
from orl_ray.storage import Store, StoreError


def full_pipeline(arguments: Sequence[str] | None = None) -> int:
    """Run the main job: from scene images to an object-level backbone, its evaluation and a report.

    Args:
        arguments: the command line without the program's name; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 a stage failed, 2 it cannot start as things are (settings, store, source, cluster),
        130 interrupted, 143 stopped by a signal.
    """
    options = _parser().parse_intermixed_args(arguments)  # settings may stand before and after options
    if options.help_settings:
        print(settings_help())
        return 0
    try:
        config = config_of(options, options.settings)
        store = Store(config.execution.store)
        stages_of_round(config, options.until, config.rounds)  # a stage that is unknown is told at once
        if options.dry_run:
            store.check()
            print(dry_run_of_rounds(config, options.until, store))
            return 0
        rescan = "deep" if options.rescan_deep else "quick" if options.rescan else ""
        request = Request(rescan, options.retry_quarantined)
        check_endpoints(config, store, lambda: _needs(config, options.until, store, request))
    except (ValueError, OSError, StoreError, PreflightError) as error:
        print(error, file=sys.stderr)
        return 2
    return _run_rounds(config, options.until, store, request)


def _needs(config: Config, until: str, store: Store, request: Request) -> Needs:
    try:
        known = known_rounds(config, until, store)
        return needs_of(config, [entry for planned in known for entry in planned.plans], request)
    except (ValueError, OSError, StoreError):  # what keeps it from being planned is told when it runs
        return Needs()


def dry_run_of_rounds(config: Config, until: str, store: Store) -> str:
    """Tell of every round which stages are done, which would run, and why. Starts nothing.

    Args:
        config: the config.
        until: name of the last stage that is asked for.
        store: the store.
    """
    if config.rounds == 1:
        return dry_run(config, stages_of_round(config, until, 1), store)
    told = []
    for planned in known_rounds(config, until, store):
        told += [f"round {planned.number} of {config.rounds}", dry_run(planned.config, planned.stages, store)]
    waiting = [
        f"round {n} of {config.rounds}: waits for round {n - 1}" for n in range(planned.number + 1, config.rounds + 1)
    ]
    return "\n".join([*told, *waiting])


def dry_run(config: Config, stages: Sequence[Stage], store: Store) -> str:
    """Tell, as a table, which stages are done, which would run, and why. Starts nothing."""
    rows = [
        (p.stage.name, str(p.state), f"{len(p.missing)}" if p.missing else "", p.reason)
        for p in plan(config, stages, store, resolve_pins(config, store))
    ]
    return table(("stage", "state", "parts to make", "why"), rows)


def _run_rounds(config: Config, until: str, store: Store, request: Request) -> int:
    """Run one round after another; each starts from the object-level result of the one before."""
    console, runs, code = Console(), list[RunSummary](), 0
    for number in range(1, config.rounds + 1):
        if config.rounds > 1:
            console.line(f"round {number} of {config.rounds}")
            request = replace(request, round=Round(number, config.rounds, tuple(run.run_id for run in runs)))
        code = run_once(config, stages_of_round(config, until, number), store, console, request, runs)
        following = next_round(config, runs[-1].plans) if not code and number < config.rounds else None
        if following is None:
            break
        config, request = following, Request()
    return code


def run_once(
    config: Config, stages: Sequence[Stage], store: Store, console: Console, request: Request, runs: list[RunSummary]
) -> int:
    """Run stages, and say how it went.

    Args:
        config: the config.
        stages: the graph.
        store: a prepared store.
        console: where progress goes.
        request: what else to do.
        runs: the runs so far, to which this one is added if it succeeds.

    Returns:
        The exit code, as of :func:`full_pipeline`.
    """
    try:
        summary = execute(config, stages, store, console, request)
    except (KeyboardInterrupt, SystemExit) as stop:  # an exit is what Ray makes of SIGTERM, as of ray job stop
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    except (PreflightError, StoreBusyError, UnfinishedTakedownError, PinError) as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:  # noqa: BLE001 -- people are told what a stage raised, not shown a traceback
        print(f"failed: {describe_error(error)}", file=sys.stderr)
        print("what was finished is kept; the same command goes on from there", file=sys.stderr)
        return 1
    print(_summary_table(summary.plans, summary.made))
    _print_overlap(config, store, [*runs[-1:], summary])
    runs.append(summary)
    work = "" if summary.used_ray else "; nothing was missing, Ray was not started"
    print(f"\n{duration(summary.seconds)}{work}. Run record: {store.root}/runs/{summary.run_id}.json")
    products = {"report": "index.html", "object_level": "backbone.safetensors"}
    for p in summary.plans:
        if p.stage.name in products:
            print(f"{p.stage.name}: {store.part_folder(p.stage.name, p.key)}/{products[p.stage.name]}")
    return 0


def _print_overlap(config: Config, store: Store, rounds: Sequence[RunSummary]) -> None:
    """Say how much the neighbours changed between two rounds."""
    if len(rounds) > 1:
        before, after = (
            next((p.records for p in summary.plans if p.stage.name == "neighbors"), ()) for summary in rounds
        )
        overlap = neighbor_overlap(store, before, after, config.mining.k)
        if not math.isnan(overlap):
            print(f"\nneighbours as in the round before: {overlap:.0%} of the nearest {config.mining.k}")


# What Ray Data appends to errors: it tells of settings that are not ours.
_RAY_DATA_ADVICE = "Failed to apply UDF transform after"


def describe_error(error: BaseException) -> str:
    """Return the message of what really went wrong: the innermost cause of a chain of Ray's wrappers."""
    cause = error
    while (inner := getattr(cause, "cause", None) or cause.__cause__) is not None and inner is not cause:
        cause = inner
    message = str(cause).partition(_RAY_DATA_ADVICE)[0]
    lines = [line for line in message.splitlines() if line.strip()]
    text = "\n".join(lines if len(lines) < 20 else [*lines[:3], "...", *lines[-8:]])
    return f"{type(cause).__name__}: {text}"


def _summary_table(plans: Sequence[StagePlan], made: dict[str, tuple[int, float]]) -> str:
    rows = []
    for p in plans:
        name, records = p.stage.name, p.records
        quarantined = sum(record.quarantined for record in records)
        parts, seconds = made.get(name, (0, 0.0))
        if p.state is State.SKIPPED:
            note = f"skipped: {p.reason}"
        elif not parts:
            note = "up to date"
        elif p.stage.scope == "part" and parts < len(records):
            note = f"{len(records) - parts} of {len(records)} parts were there"
        else:
            note = ""
        rows.append(
            (
                name,
                f"{sum(record.rows for record in records):,} {p.stage.unit}" if records else "",
                f"{seconds:.1f}" if parts else "",
                f"{quarantined}" if quarantined else "",
                note,
            )
        )
    return "\n" + table(("stage", "rows", "seconds", "quarantined", "note"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="full_pipeline.py",
        description="From a folder of scene photographs to an object-level backbone. The same command resumes.",
    )
    add_settings(parser)
    parser.add_argument("--until", default="report", metavar="STAGE", help="make only this stage and what it needs")
    parser.add_argument("--rescan", action="store_true", help="list the source again, and add the images that are new")
    parser.add_argument(
        "--rescan-deep", action="store_true", help="rescan, and compare every image of the source with what was packed"
    )
    parser.add_argument(
        "--retry-quarantined", action="store_true", help="read the images again that could not be read at ingest"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why, and end")
    parser.add_argument("--help-settings", action="store_true", help="list every setting, and end")
    return parser
