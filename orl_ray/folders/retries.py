"""Retries for object storage: what passes with time is tried again, what does not is told at once."""

import contextlib
import contextvars
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from orl_ray.folders.backend import StorageUnavailableError

ATTEMPTS = 8
LONGEST_PAUSE = 10.0
_FIRST_PAUSE = 0.2
_T = TypeVar("_T")
# When to try nothing again any more, by ``time.monotonic``.
_last_try: contextvars.ContextVar[float] = contextvars.ContextVar("last try", default=math.inf)


@contextlib.contextmanager
def giving_up_after(seconds: float) -> Iterator[None]:
    """Within the block, and in its thread, start no further try once so much time has passed."""
    token = _last_try.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _last_try.reset(token)


def time_left() -> float:
    """Return the seconds that are left within :func:`giving_up_after`."""
    return max(0.0, _last_try.get() - time.monotonic())


def request_timeout() -> float:
    """Return the silence, in seconds, after which a request counts as lost: ``ORL_STORAGE_TIMEOUT``, by default 20.

    A service that is down is given up after at most eight such silences and 23 seconds of pauses.
    """
    return float(os.environ.get("ORL_STORAGE_TIMEOUT", "20"))


def retried(request: Callable[[], _T], explain: Callable[[Exception], Exception]) -> _T:
    """Send a request until it succeeds, at most eight times; the clients' own retries must be off.

    The pauses double, with full jitter, so that many workers do not come back together.

    Args:
        request: sends it.
        explain: says in the words of this package what went wrong; :class:`StorageUnavailableError` is tried again,
            everything else is raised at once.

    Returns:
        What the request returned.
    """
    for attempt in range(ATTEMPTS):
        try:
            return request()
        except Exception as error:
            failure = explain(error)
            if failure is error:
                raise
            pause = random.uniform(0, min(LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))
            last = attempt + 1 == ATTEMPTS or pause > time_left()
            if last or not isinstance(failure, StorageUnavailableError):
                raise failure from None  # it says all that the client's error says, and what it means here
            time.sleep(pause)
    raise AssertionError("unreachable")
