"""Checks of endpoints that run side by side, each against a deadline; all that they find is told at once."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orl_ray.cluster_probe import ClusterUnavailableError
from orl_ray.folders.diagnosis import explain
from orl_ray.folders.retries import giving_up_after
from orl_ray.storage import StoreError

# Each endpoint must have answered after so many seconds.
DEADLINE = 5.0
# After this share of it nothing is tried again, so that a reason is told and not just that there was no answer.
_LAST_TRY = 0.8


class PreflightError(RuntimeError):
    """Everything that keeps a run from starting, one line a problem, in ``problems``."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{count} problem{'s' if count != 1 else ''} found before the start:"
        super().__init__("\n".join([heading, *(f"  {line}" for line in self.problems)]))


@dataclass(frozen=True, slots=True)
class Check:
    """One endpoint.

    Attributes:
        name: what it is to the run, for example ``store``.
        place: where it is.
        find: looks at it; returns what is wrong, or raises it.
    """

    name: str
    place: str
    find: Callable[[], list[str]]


def run_checks(checks: Sequence[Check], deadline: float = DEADLINE) -> list[str]:
    """Run checks side by side; return all problems, in the order of the checks.

    A check that has not ended at its deadline is a problem of its own. Its thread is left behind, and keeps no process
    alive.

    Args:
        checks: the checks.
        deadline: seconds that each may take.
    """
    found: dict[int, list[str]] = {}

    def run(index: int, check: Check) -> None:
        with giving_up_after(_LAST_TRY * deadline):
            found[index] = _problems_of(check)

    threads = [
        threading.Thread(target=run, args=(index, check), name=f"check {check.name}", daemon=True)
        for index, check in enumerate(checks)
    ]
    end = time.monotonic() + deadline
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    silence = [f"no answer within {deadline:g} s: is it up, and is there a route to it?"]
    told = [(f"{check.name} {check.place}", found.get(index, silence)) for index, check in enumerate(checks)]
    return [f"{what}: {problem}" for what, problems in told for problem in problems]


def raise_problems(problems: Sequence[str]) -> None:
    """Raise a :class:`PreflightError` where there are problems."""
    if problems:
        raise PreflightError(problems)


def _problems_of(check: Check) -> list[str]:
    try:
        return check.find()
    except (StoreError, ClusterUnavailableError) as error:
        return [str(error).removeprefix(f"{check.place} ")]
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is told with the other problems
        return [explain(error, check.place)]
