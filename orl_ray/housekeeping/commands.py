"""The commands ``gc`` and ``delete``: say what would go, and with ``--delete`` let it go."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orl_ray.config import Config
from orl_ray.housekeeping.garbage import Garbage, delete_garbage, find_garbage
from orl_ray.housekeeping.takedown import Traces, find_traces, take_down
from orl_ray.occupancy import StoreBusyError, alone
from orl_ray.progress import table
from orl_ray.storage import Store, StoreError


def gc_command(arguments: Sequence[str] | None = None) -> int:
    """Find, and delete, what no run record of a store names.

    Args:
        arguments: the command line behind ``gc``.

    Returns:
        The exit code: 0 done, 2 it cannot be done as things are, 130 interrupted.
    """
    parser = _parser("gc", "Find what no run record of a store names: what interrupted and forgotten runs left behind.")
    parser.add_argument(
        "--keep-runs",
        type=_count,
        metavar="N",
        help="forget all runs but the newest N, and find what only they name",
    )
    options = parser.parse_args(arguments)

    def collect(store: Store) -> None:
        garbage = find_garbage(store, _artifacts(), options.keep_runs)
        print(_garbage_table(store, garbage))
        if options.delete:
            delete_garbage(store, garbage)
            print("deleted")
        elif garbage.count:
            print("nothing is deleted yet: add --delete")

    return _on_store(options.store, "gc", collect)


def delete_command(arguments: Sequence[str] | None = None) -> int:
    """Take images out of a store by their ids.

    Args:
        arguments: the command line behind ``delete``.

    Returns:
        The exit code: 0 done, 2 it cannot be done as things are, 130 interrupted.
    """
    parser = _parser("delete", "Take images out of a store for good: their bytes, and what was made of each of them.")
    parser.add_argument(
        "image_ids", nargs="+", type=_image_id, metavar="IMAGE_ID", help="as in the tables of the store"
    )
    parser.add_argument("--reason", default="", help="kept with the takedown, for people")
    parser.add_argument("--weights", action="store_true", help="delete what was trained on them, too")
    options = parser.parse_args(arguments)
    ids = sorted(set(options.image_ids))

    def delete(store: Store) -> None:
        if options.delete:
            traces = take_down(store, _artifacts(), ids, options.reason, weights=options.weights)
        else:
            traces = find_traces(store, _artifacts(), ids)
        print(_traces_text(store, ids, traces, _Outcome(options.delete, options.weights)))

    return _on_store(options.store, "delete", delete)


def _artifacts() -> list[str]:
    from orl_ray.embeddings.vector_stages import ARTIFACTS
    from orl_ray.graph import main_job  # imports the whole library

    return [*(stage.name for stage in main_job("global")), *ARTIFACTS]


def _on_store(place: str, task: str, work: Callable[[Store], None]) -> int:
    """Do something alone with a store that exists; tell what keeps it from being done."""
    try:
        store = Store(place)
        store.require()
        with alone(store, task, Config().execution.lease_seconds):
            work(store)
    except (ValueError, OSError, ImportError, StoreError, StoreBusyError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _garbage_table(store: Store, garbage: Garbage) -> str:
    if not garbage.count:
        return f"no garbage in {store.root}: run records name everything"
    counts = {artifact: len(keys) for artifact, keys in garbage.keys.items()}
    for path in [*garbage.folders, *garbage.files]:
        kind = path.partition("/")[0]
        counts[kind] = counts.get(kind, 0) + 1
    rows = [(kind, f"{count:,}", f"{garbage.bytes[kind] / 2**20:,.1f} MB") for kind, count in sorted(counts.items())]
    rows += [("run records", f"{len(garbage.runs):,}", "")] if garbage.runs else []
    rows += [("half-written files", f"{len(garbage.half_written):,}", "")] if garbage.half_written else []
    total = f"{garbage.bytes.total() / 2**20:,.1f} MB"
    return table(("garbage", "count", "size"), [*rows, ("all", f"{garbage.count:,}", total)])


@dataclass(frozen=True, slots=True)
class _Outcome:
    deleted: bool
    weights: bool


def _traces_text(store: Store, ids: Sequence[int], traces: Traces, outcome: _Outcome) -> str:
    rows = [
        (artifact, f"{len(keys):,}", "packed again without them" if artifact == "packed_scenes" else "deleted")
        for artifact, keys in traces.parts.items()
    ]
    kept = "deleted" if outcome.weights else "kept: made of many images, holds none of them"
    rows += [(artifact, f"{len(keys):,}", kept) for artifact, keys in traces.trained.items()]
    lines = [f"{len(traces.found)} of {len(ids)} images are in the packs of {store.root}"]
    lines += [table(("artifact", "parts", "what becomes of them"), rows)] if rows else []
    if not outcome.deleted:
        return "\n".join([*lines, "nothing is deleted yet: add --delete"])
    lines.append("from now on these ids are refused, whatever a source lists (takedowns/ in the store)")
    if rows:
        lines.append("run the job again: it makes the parts above again, and everything that depends on all images,")
        lines.append("the trainings included; freeze=encoder,centroids keeps those (see docs/stores.md)")
    lines.append("not touched: the source, the names of files in the listing, copies and backups of the store")
    return "\n".join(lines)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m orl_ray {name}", description=description)
    parser.add_argument("store", metavar="STORE", help="a local folder, s3:// or gs://")
    parser.add_argument("--delete", action="store_true", help="do it; without this nothing is changed")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least the newest run is kept: 1 or more")
    return count


def _image_id(text: str) -> int:
    image_id = int(text)
    if not 0 <= image_id < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is no image id: an integer in [0, 2**63)")
    return image_id
