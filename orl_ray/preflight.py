"""Before Ray is joined: are the store, the source and the cluster there, as a run needs them?

Everything that is wrong is told at once, and each endpoint has seconds to answer.
"""

import contextlib
import importlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from orl_ray import cluster_probe
from orl_ray.checks import DEADLINE, Check, raise_problems, run_checks
from orl_ray.config import Config
from orl_ray.folders import Folder
from orl_ray.folders.retries import time_left
from orl_ray.pretraining.trackers import asked_for, mlflow_client, package_problem
from orl_ray.scenes.json_file import JsonFile
from orl_ray.settings import several
from orl_ray.storage import Store

# One image that cannot be read goes to quarantine; a folder in which none of so many can be read is a problem.
_FILES_TRIED = 8
_IMAGES, _TRACKER = "source.images", "tracker"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs beside its store: what is made already needs nothing.

    Attributes:
        source: the images where they came from.
        ray: a Ray to run on.
        training: room in it for the workers of a training, and what they report to.
    """

    source: bool = True
    ray: bool = True
    training: bool = True


def check_endpoints(
    config: Config, store: Store, needs: Callable[[], Needs] = Needs, deadline: float = DEADLINE
) -> None:
    """Check all that this process can see; the store is made where there is none yet.

    Args:
        config: the config.
        store: the store.
        needs: tells what the run needs; asked where something else than the store is amiss.
        deadline: seconds within which each endpoint must have answered.

    Raises:
        PreflightError: with every problem that was found.
    """
    address = cluster_probe.cluster_address(config)
    checks = [
        Check("store", str(store.root), partial(_try_store, store)),
        *source_checks(config),
        *tracker_checks(config),
        Check("Ray cluster" if address else "Ray", address or "on this machine", partial(_try_ray, config, address)),
    ]
    import_clients(config, store)
    if address:
        import ray  # noqa: F401
    found = run_checks(checks, deadline)
    if found and not any(problem.startswith("store ") for problem in found):
        needed = needs()
        found = [problem for problem in found if _matters(problem, needed)]
    raise_problems(found)


def _matters(problem: str, needed: Needs) -> bool:
    if problem.startswith(_IMAGES):
        return needed.source
    if problem.startswith(_TRACKER):
        return needed.training
    if problem.startswith("Ray"):
        return needed.ray and (needed.training or f": {cluster_probe.NO_ROOM}" not in problem)
    return True


def source_checks(config: Config) -> list[Check]:
    """Return a check for each folder and file of the source; generated scenes have none."""
    source = config.source
    if source.kind == "generated":
        return []
    folders = [Folder(place) for place in several(source.images)]
    files = {"source.annotations": several(source.annotations), "source.splits": several(source.splits)}
    return [
        *(Check(_IMAGES, str(folder), partial(_try_images, folder)) for folder in folders),
        *(Check(name, place, partial(_try_file, place)) for name, places in files.items() for place in places),
    ]


def tracker_checks(config: Config) -> list[Check]:
    """Return a check for each tracker that the config asks for; none by default."""
    tries = {"tensorboard": _try_event_folder, "mlflow": _try_mlflow}
    return [
        Check(f"{_TRACKER} execution.{package}", place, partial(_try_tracker, package, partial(tries[package], place)))
        for package, place in asked_for(config.execution).items()
    ]


@contextlib.contextmanager
def probe(root: Folder) -> Iterator[tuple[str, bytes]]:
    """Leave a file with a text that nobody can guess under the root of a store for a while; yield name and text."""
    token = uuid.uuid4().hex
    name = f"leases/preflight/{token}"
    root.create(name, token.encode())
    try:
        yield name, token.encode()
    finally:
        root.delete(name)


def import_clients(config: Config, store: Store) -> None:
    """Import what checks need before their time runs: a slow disk is no slow endpoint."""
    places = [str(store.root), config.source.images, config.source.annotations, config.source.splits]
    for scheme, module in {"s3://": "boto3", "gs://": "google.cloud.storage"}.items():
        if any(scheme in place for place in places):
            with contextlib.suppress(ModuleNotFoundError):  # its backend says what to install
                importlib.import_module(module)
    if config.execution.mlflow:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("mlflow.tracking")


def _try_tracker(package: str, look: Callable[[], None]) -> list[str]:
    if problem := package_problem(package):
        return [problem]
    look()
    return []


def _try_event_folder(place: str) -> None:
    Path(place).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place):
        pass


def _try_mlflow(uri: str) -> None:
    mlflow_client(uri).search_experiments(max_results=1)


def _try_store(store: Store) -> list[str]:
    store.prepare()
    with probe(store.root) as (name, token):
        if store.root.read(name) != token:
            return [f"{name} does not read back as it was written"]
        try:
            store.root.create(name, b"another's")
        except FileExistsError:
            return []
    return ["it creates a file where there is one: two drivers could write one output. Take one with conditional puts"]


def _try_images(folder: Folder) -> list[str]:
    if folder.is_local and not folder.local.is_dir():
        return ["there is no such folder: is it mounted, is the name right?"]
    failure: Exception | None = None
    for holder, name in islice(_some_files(folder), _FILES_TRIED):
        try:
            holder.read_range(name, 0, 1)
        except (PermissionError, FileNotFoundError) as error:
            failure = error
        else:
            return []
    if failure is not None:
        raise failure
    return ["it holds no files: is it mounted, is the name right?"]


def _some_files(folder: Folder) -> Iterable[tuple[Folder, str]]:
    """Yield a folder's files in no order: of a million, the first must come at once."""
    if folder.is_local:
        return ((Folder(path.parent), path.name) for path in _walk(folder.local))
    return ((folder, info.path) for info in folder.files())


def _walk(folder: Path) -> Iterator[Path]:
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(Path(entry.path))
            elif entry.is_file():
                yield Path(entry.path)
    for path in below:
        yield from _walk(path)


def _try_file(place: str) -> list[str]:
    file = JsonFile.at(place)
    try:
        return [] if file.folder.read_range(file.name, 0, 1) else ["it is empty"]
    except FileNotFoundError as error:
        if "bucket" in str(error):
            raise
        return ["there is no such file"]


def _try_ray(config: Config, address: str) -> list[str]:
    if not address:
        return cluster_probe.resource_problems(config.execution, cluster_probe.private_facts(config.execution))
    facts = cluster_probe.ask_cluster(address, time_left())
    return cluster_probe.version_problems(facts) + cluster_probe.resource_problems(config.execution, facts)
