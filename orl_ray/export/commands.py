"""The command ``export-backbone``: a trained backbone of a store as files of another library."""

import argparse
import sys
from collections.abc import Sequence

from orl_ray.config import Config
from orl_ray.export.formats import FORMATS, exported_files
from orl_ray.export.trained import TRAININGS, find_trained
from orl_ray.folders import Folder
from orl_ray.occupancy import StoreBusyError, at_work
from orl_ray.storage import Store, StoreError, new_run_id


def export_backbone_command(arguments: Sequence[str]) -> int:
    """Write a trained backbone into a folder.

    Args:
        arguments: the command line behind ``export-backbone``.

    Returns:
        The exit code: 0 done, 2 nothing was written, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        _export(options)
    except (ValueError, OSError, ImportError, StoreError, StoreBusyError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; delete what lies in the folder", file=sys.stderr)
        return 130
    return 0


def _export(options: argparse.Namespace) -> None:
    store, folder = Store(options.store), Folder(options.folder)
    store.require()
    if folder.names():
        raise ValueError(f"{folder} is not empty: name a new folder, so that files of two exports never mix")
    with at_work(store, new_run_id(), Config().execution.lease_seconds):
        trained = find_trained(store, options.result, options.run)
    for name, data in exported_files(trained, options.format).items():
        folder.write(name, data)
    print(f"{trained.stage}@{trained.content_hash}, {trained.architecture}, for {options.format}: {folder}")
    print("README.md in it says where the weights come from, and how to load them")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orl_ray export-backbone",
        description="Write a trained backbone of a store for another library, with a model card.",
    )
    parser.add_argument("store", metavar="STORE", help="a local folder, s3:// or gs://")
    parser.add_argument("format", choices=list(FORMATS), help="what is to read it")
    parser.add_argument("folder", metavar="OUT", help="a new folder: a path, s3:// or gs://")
    parser.add_argument(
        "--result",
        default=TRAININGS[0],
        metavar="NAME[@HASH]",
        help=f"{' or '.join(TRAININGS)}, told by its content hash or else of the newest run (default: %(default)s)",
    )
    parser.add_argument("--run", default="", metavar="ID", help="what this run used, as of one round of several")
    return parser
