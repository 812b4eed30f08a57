"""The measurements of a training as lines of JSON in the store, to be read while it goes on and after it."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orl_ray.folders import Folder
from orl_ray.leases import check_fence
from orl_ray.storage import Store

LOGS, _NAME = "training_logs", "measurements.jsonl"
# A bucket has no appending: there the file is written anew, at most this often.
_REWRITE_SECONDS = 10.0


def log_folder(store: Store, output: str) -> Folder:
    """Return the folder of a training's log; it stays as long as a run record names the training."""
    return store.root / f"{LOGS}/{output}"


def log_place(store: Store, output: str) -> str:
    """Return where the log of a training is, for people."""
    return f"{log_folder(store, output)}/{_NAME}"


class TrainingLog:
    """The log of one training: the entries of its history, a line each, whoever wrote them.

    On a disk lines are appended, so that ``tail -f`` shows them. A training that goes on from a checkpoint first drops
    the lines behind it, which it is about to write again.

    Args:
        store: the store.
        output: what is trained, for example ``image_level/<key>``.
        fence: the lease's fencing token.
    """

    def __init__(self, store: Store, output: str, fence: int) -> None:
        self._entries: list[dict[str, float]] = []
        self._store, self._output, self._fence = store, output, fence
        self._folder = log_folder(store, output)
        self._lines: list[str] = []
        self._begun = False
        self._written_at: float | None = None

    def before(self, step: float) -> list[dict[str, float]]:
        """Return the entries before a step; at first, take the lines of those over from whoever wrote the log before.

        Args:
            step: the step to be written next.
        """
        if not self._begun:
            self._begun = True
            for line in self._lines_left():
                entry = _numbers(line)
                if entry and entry["step"] < step:
                    self._entries.append(entry)
                    self._lines.append(line)
        return list(self._entries)

    def write(self, entry: Mapping[str, float], told: Sequence[str] = ()) -> None:
        """Write a line.

        Args:
            entry: what was measured, with its ``step``.
            told: what people should know of it; the line's ``warnings``.

        Raises:
            LeaseLostError: another driver has taken this training over.
        """
        self.before(entry["step"])
        self._entries.append(dict(entry))
        self._lines.append(_line({**entry, **({"warnings": list(told)} if told else {})}))
        check_fence(self._store, self._output, self._fence)
        if self._folder.is_local and self._written_at is not None:
            with (self._folder.local / _NAME).open("a", encoding="utf-8") as file:
                file.write(self._lines[-1])
        elif self._written_at is None or time.monotonic() - self._written_at >= _REWRITE_SECONDS:
            self._rewrite()

    def close(self) -> None:
        """Write what is not written yet."""
        if not self._folder.is_local and self._lines:
            self._rewrite()

    def _lines_left(self) -> list[str]:
        try:
            return self._folder.read(_NAME).decode().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _rewrite(self) -> None:
        self._folder.write(_NAME, "".join(self._lines).encode())
        self._written_at = time.monotonic()


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, allow_nan=False) + "\n"


def _numbers(line: str) -> dict[str, float]:
    """Return the numbers of a line; none of one that a killed writer left unfinished."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return {name: value for name, value in content.items() if isinstance(value, int | float)}
