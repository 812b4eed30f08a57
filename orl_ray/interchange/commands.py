"""The commands ``import`` and ``export``: the reference's JSON files into a store, and out of it."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orl_ray.config import Config, flatten
from orl_ray.interchange.encoder import import_encoder
from orl_ray.interchange.importing import Imported, import_correspondences, import_neighbors, import_proposals
from orl_ray.interchange.reading import names_images
from orl_ray.interchange.writing import (
    Exported,
    Target,
    export_correspondences,
    export_neighbors,
    export_proposals,
)
from orl_ray.occupancy import StoreBusyError, at_work
from orl_ray.options import add_settings, config_of, is_setting
from orl_ray.pins import IMAGE_LEVEL, Pin, frozen_needs, parse_freeze, resolve_pins
from orl_ray.pipeline import IMPORTED, Stage, StagePlan, State, collection_hash, plan, up_to
from orl_ray.progress import Console, StageProgress
from orl_ray.rounds import known_rounds
from orl_ray.scenes.json_file import JsonFile
from orl_ray.scenes.sources import source_folders
from orl_ray.storage import Store, StoreError, new_run_id

_KINDS = ("proposals", "neighbors", "correspondences")
_ENCODER = "encoder"
_RUN_UNTIL = {"proposals": "rois", "neighbors": "correspondences", "correspondences": "object_level"}


def import_command(arguments: Sequence[str]) -> int:
    """Import files of the reference into a store whose scenes are done, and say what to freeze.

    Args:
        arguments: the command line behind ``import``.

    Returns:
        The exit code: 0 done, 2 nothing was imported, 130 interrupted.
    """
    options = _import_parser().parse_intermixed_args(arguments)
    return _told(lambda: _import(options))


def export_command(arguments: Sequence[str]) -> int:
    """Export an artifact of a store as a file of the reference.

    Args:
        arguments: the command line behind ``export``.

    Returns:
        The exit code: 0 done, 2 nothing was exported, 130 interrupted.
    """
    options = _export_parser().parse_intermixed_args(arguments)
    return _told(lambda: _export(options))


def _told(work: Callable[[], None]) -> int:
    try:
        work()
    except (ValueError, OSError, ImportError, StoreError, StoreBusyError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing of it is used", file=sys.stderr)
        return 130
    return 0


def _import(options: argparse.Namespace) -> None:
    config = config_of(options, [entry for entry in options.files if is_setting(entry)])
    files = [JsonFile.at(entry) for entry in options.files if not is_setting(entry)]
    if not files:
        raise ValueError("name the file to import")
    if options.kind == _ENCODER:
        _import_encoder(config, files, options.order)
        return
    if options.kind == "neighbors" and len(files) > 1:
        raise ValueError("a k-NN file is one file: import one")
    if options.order and options.kind != "proposals":
        raise ValueError("--order is for proposals; the other files name their images")
    store, started, run_id = Store(config.execution.store), time.monotonic(), new_run_id()
    store.require()
    with at_work(store, run_id, config.execution.lease_seconds):
        (scenes,) = _done(config, store, ("scenes",), {}).values()
        progress = StageProgress(Console(), f"import {options.kind}", sum(r.rows for r in scenes.records), "images")
        if options.kind == "proposals":
            orders = _order(config, store, files, options.order)
            imported = import_proposals(store, scenes.records, files, orders, progress)
        elif options.kind == "neighbors":
            imported = import_neighbors(store, scenes.records, files[0], progress)
        else:
            imported = import_correspondences(store, scenes.records, files, progress)
        inputs = {"scenes": collection_hash(scenes.records)}
        store.write_run(run_id, _run_record(config, run_id, inputs, imported, time.monotonic() - started))
    _tell_import(config, store, options.kind, imported)


def _import_encoder(config: Config, files: Sequence[JsonFile], order: Sequence[str]) -> None:
    if len(files) > 1 or order:
        raise ValueError("an encoder is one file, which needs no --order")
    store, started, run_id = Store(config.execution.store), time.monotonic(), new_run_id()
    store.prepare()
    with at_work(store, run_id, config.execution.lease_seconds):
        imported, encoder = import_encoder(store, str(files[0]), config.encoder)
        store.write_run(run_id, _run_record(config, run_id, {}, imported, time.monotonic() - started))
    (key, content) = imported.keys[IMAGE_LEVEL], imported.content_hash(IMAGE_LEVEL)
    projector = (
        "with its projector" if encoder.projector else "without a projector: images are compared by the backbone"
    )
    print(f"{encoder.architecture} of layout {encoder.layout}, {projector}: {store.root}/{IMAGE_LEVEL}/{key}")
    others = [entry for entry in config.freeze.split(",") if entry and not entry.startswith(_ENCODER)]
    print(
        "To use it, add freeze to the settings of a run; it takes the place of image-level pre-training:\n"
        f"  freeze={','.join([*others, f'{_ENCODER}@{content}'])}"
    )


def _export(options: argparse.Namespace) -> None:
    config, kind = config_of(options, options.settings), options.kind
    store, file = Store(config.execution.store), JsonFile.at(options.file)
    store.require()
    with at_work(store, new_run_id(), config.execution.lease_seconds):
        exported = _exported(config, store, kind, file, options.order)
    _tell_export(config, file, exported)


def _exported(config: Config, store: Store, kind: str, file: JsonFile, order: Sequence[str]) -> Exported:
    names = ("rois", "correspondences") if kind == "correspondences" else (kind,)
    config = _config_of_last_round(config, store, names[-1])
    plans = _done(config, store, ("scenes", *names), resolve_pins(config, store))
    records = {name: entry.records for name, entry in plans.items()}
    orders = [JsonFile.at(place) for place in order] or _annotations(config, store)
    progress = StageProgress(Console(), f"export {kind}", sum(r.rows for r in records[names[0]]), "images")
    target = Target(file, orders, bool(order), progress)
    if kind == "proposals":
        return export_proposals(store, records["scenes"], records[kind], target)
    if kind == "neighbors":
        return export_neighbors(store, records["scenes"], records[kind], target, config.mining.k)
    parts = (records["scenes"], records["rois"], records[kind])
    return export_correspondences(config, store, *parts, target)


def _config_of_last_round(config: Config, store: Store, until: str) -> Config:
    """Return the config whose results are the last round's: its encoder is the network of the round before.

    Raises:
        ValueError: that round has not been reached.
    """
    last = list(known_rounds(config, until, store))[-1]
    if last.number < config.rounds:
        raise ValueError(
            f"round {last.number + 1} of {config.rounds} has not begun in {store.root}: run jobs/full_pipeline.py with "
            "the same settings first"
        )
    return last.config


def _done(config: Config, store: Store, names: Sequence[str], pins: Mapping[str, Pin]) -> dict[str, StagePlan]:
    """Return the plans of stages that must be done.

    Raises:
        ValueError: one is not.
    """
    stages = _stages(config, names)
    plans = {entry.stage.name: entry for entry in plan(config, stages, store, pins)}
    for name in names:
        if plans[name].state is not State.DONE:
            raise ValueError(
                f"{name} are not made yet in {store.root} with these settings ({plans[name].reason}): run "
                f"jobs/full_pipeline.py --until {name} with the same settings first"
            )
    return {name: plans[name] for name in names}


def _stages(config: Config, names: Sequence[str]) -> list[Stage]:
    from orl_ray.graph import main_job

    stages = main_job(config.mining.scope, config.object_level.init_from)
    needed = {stage.name for name in names for stage in up_to(stages, name, frozen_needs(config))}
    return [stage for stage in stages if stage.name in needed]


def _order(config: Config, store: Store, files: Sequence[JsonFile], given: Sequence[str]) -> list[JsonFile]:
    """Return the COCO JSONs in whose order files of proposals stand; none where the files name their images."""
    named = [names_images(file) for file in files]
    if all(named):
        if given:
            raise ValueError("--order is for files that do not name their images; these do")
        return []
    if any(named):
        with_names, without = files[named.index(True)], files[named.index(False)]
        raise ValueError(f"{with_names} names its images and {without} does not: import files of one kind")
    orders = [JsonFile.at(place) for place in given] or _annotations(config, store)
    if not orders:
        raise ValueError(
            f"{files[named.index(False)]} does not name its images, and a source of kind {config.source.kind} has no "
            "COCO JSON: name the one in whose order it stands with --order"
        )
    return orders


def _annotations(config: Config, store: Store) -> list[JsonFile]:
    return [folder.annotations for folder in source_folders(config, store) if folder.annotations is not None]


def _run_record(
    config: Config, run_id: str, inputs: Mapping[str, str], imported: Imported, seconds: float
) -> dict[str, Any]:
    """Record an import as a run, so that ``freeze`` finds it without a hash, and no clean-up takes it for garbage."""
    versions: Mapping[str, int] = {stage.name: stage.version for stage in _stages(config, tuple(imported.records))}
    return {
        "run_id": run_id,
        "status": IMPORTED,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 3),
        "config": flatten(config),
        "notes": [],
        "pins": {},
        "stages": {
            name: {
                "state": "imported",
                "reason": "imported",
                "key": imported.keys[name],
                "version": versions[name],
                "settings": {},
                "inputs": dict(inputs),
                "content_hash": imported.content_hash(name),
                "rows": sum(record.rows for record in records),
                "parts": {record.index: record.key for record in records},
                "made_here": len(records),
            }
            for name, records in imported.records.items()
        },
    }


def _tell_import(config: Config, store: Store, kind: str, imported: Imported) -> None:
    counts = {
        "images of the files that the scenes lack, left out": imported.unknown,
        "rows of an image that came before, left out": imported.repeated,
        "neighbours that the scenes lack or that are the image itself, left out": imported.neighbors_dropped,
        "images without a proposal, in quarantine": imported.without_boxes,
    }
    print(f"{imported.images:,} images imported")
    for what, count in counts.items():
        if count:
            print(f"{count:,} {what}")
    for name, key in imported.keys.items():
        print(f"{name}: {store.root}/{name}/manifests/{key}.json")
    frozen = {name: wanted for name, wanted in parse_freeze(config.freeze) if name not in imported.records}
    frozen |= {name: imported.content_hash(name) for name in imported.records}
    setting = ",".join(f"{name}@{wanted}" if wanted else name for name, wanted in frozen.items())
    print(f"To use them, add freeze to the settings of a run:\n  --until {_RUN_UNTIL[kind]} freeze={setting}")


def _tell_export(config: Config, file: JsonFile, exported: Exported) -> None:
    print(f"{exported.images:,} images exported: {file}")
    if exported.left_out:
        print(
            f"{exported.left_out:,} images of the COCO JSON are not in the store and not in the file: "
            "its positions are those of its own list of images"
        )
    if exported.short:
        print(f"{exported.short:,} images have fewer than mining.k={config.mining.k} neighbours")


def _import_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orl_ray import",
        description="Import JSON of the reference into a store whose scenes are done, or weights of an encoder.",
    )
    parser.add_argument("kind", choices=(*_KINDS, _ENCODER), help="what the file holds")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE|name=value",
        help="the file; of proposals or correspondences in several files, all of them in their order; and settings",
    )
    parser.add_argument(
        "--order",
        action="append",
        default=[],
        metavar="COCO.json",
        help="the COCO JSON in whose order proposals stand, if it is not the source's; again for each file",
    )
    add_settings(parser, positional=False)
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orl_ray export",
        description="Export an artifact of a store as a file of the reference's JSON.",
    )
    parser.add_argument("kind", choices=_KINDS, help="what to export")
    parser.add_argument("file", metavar="OUT", help="the file to write: a path, s3:// or gs://")
    parser.add_argument(
        "--order",
        action="append",
        default=[],
        metavar="COCO.json",
        help="write positions of this COCO JSON, or refuse; again for each folder of the source",
    )
    add_settings(parser)
    return parser
