"""Who is at a store: any number of runs side by side, or one piece of housekeeping alone.

A run cannot tell which of the parts that it just found the next clean-up takes for garbage, so the two exclude each
other. Each says first that it is there, then looks for the other: of a run and a clean-up that come at the same
moment, at least one sees the other and leaves.
"""

import contextlib
from collections.abc import Iterator

from orl_ray.leases import Lease, LeaseHeldError, holder, lease_folder
from orl_ray.storage import Store

_RUNS, ALONE = "runs", "housekeeping"
# Where the leases of runs lie; a run that ends takes its own away.
RUN_LEASES = f"leases/{_RUNS}"


class StoreBusyError(RuntimeError):
    """Housekeeping and a run cannot be at a store at the same time."""


@contextlib.contextmanager
def at_work(store: Store, run_id: str, promise: float) -> Iterator[None]:
    """Be at a store as a run, beside other runs.

    Args:
        store: the store.
        run_id: the run.
        promise: seconds of silence after which others may take the run for dead.

    Raises:
        StoreBusyError: housekeeping is at the store.
    """
    output = f"{_RUNS}/{run_id}"
    try:
        with Lease(store, output, promise=promise, run_id=run_id):
            keeper = holder(store, ALONE)
            if keeper is not None:
                raise StoreBusyError(f"{store.root} is being cleaned by {keeper}: start again when that is done")
            yield
    finally:
        lease_folder(store, output).delete_folder()


@contextlib.contextmanager
def alone(store: Store, task: str, promise: float) -> Iterator[None]:
    """Be at a store alone, for housekeeping.

    Args:
        store: the store.
        task: what is done, for messages.
        promise: as in :func:`at_work`.

    Raises:
        StoreBusyError: a living run, or other housekeeping, is at the store.
    """
    try:
        with Lease(store, ALONE, promise=promise, run_id=task):
            runs = [run_id for run_id in sorted((store.root / RUN_LEASES).names()) if _lives(store, run_id)]
            if runs:
                raise StoreBusyError(
                    f"{store.root} is in use by {', '.join(runs)}: wait for the end, or stop it and start again"
                )
            yield
    except LeaseHeldError as error:
        raise StoreBusyError(f"{store.root} is being cleaned, by {holder(store, ALONE) or 'another'}: wait") from error


def _lives(store: Store, run_id: str) -> bool:
    return holder(store, f"{_RUNS}/{run_id}") is not None
