"""Progress for people: a bar with rate and ETA in a terminal, plain lines elsewhere, one writer for all threads."""

import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

# Seconds between two lines where nobody watches a bar, and between two redraws where somebody does.
_LINE_SECONDS, _BAR_SECONDS = 10.0, 0.2
_BAR_WIDTH = 24


class Console:
    """Where a run talks to people. Lines of several stages at once never mix.

    Args:
        stream: what is written to; a terminal gets bars.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.is_terminal = self.stream.isatty()
        self._lock = threading.Lock()
        self._bar_shown = False

    def line(self, text: str) -> None:
        """Write one line."""
        with self._lock:
            self._clear_bar()
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def bar(self, text: str) -> None:
        """Replace the bar at the bottom of a terminal."""
        with self._lock:
            self._clear_bar()
            self.stream.write(text)
            self.stream.flush()
            self._bar_shown = True

    def _clear_bar(self) -> None:
        if self._bar_shown:
            self.stream.write("\r\x1b[2K")
            self._bar_shown = False


class StageProgress:
    """Progress of one stage.

    Args:
        console: where to write.
        title: the stage, in a few words.
        total: how much there is to do.
        unit: what is counted.
    """

    def __init__(self, console: Console, title: str, total: int, unit: str) -> None:
        self.console, self.title, self.unit = console, title, unit
        self.total, self.done = total, 0
        self._started_at, self._started_with = time.monotonic(), 0
        self._shown_at = self._started_at
        self._lock = threading.Lock()

    def resume(self, done: int, total: int) -> None:
        """Say how much was done before this run; it does not count for the rate."""
        with self._lock:
            self.done, self.total = done, total
            self._started_at, self._started_with = time.monotonic(), done

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how much is done in all."""
        with self._lock:
            self.total = self.total if total is None else total
            self.done = done
            now = time.monotonic()
            pause = _BAR_SECONDS if self.console.is_terminal else _LINE_SECONDS
            if now - self._shown_at < pause:
                return
            self._shown_at = now
        text = self.text(note)
        if self.console.is_terminal:
            self.console.bar(text)
        else:
            self.console.line(text)

    def advance(self, count: int) -> None:
        """Say that ``count`` more are done."""
        self.update(self.done + count)

    def text(self, note: str = "") -> str:
        """Describe the present state in one line: bar, count, rate, ETA."""
        share = min(1.0, self.done / self.total) if self.total else 0.0
        filled = round(share * _BAR_WIDTH)
        seconds = time.monotonic() - self._started_at
        rate = (self.done - self._started_with) / seconds if seconds > 0 else 0.0
        eta = f"ETA {duration((self.total - self.done) / rate)}" if rate > 0 else "ETA unknown"
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled) if self.console.is_terminal else f"{share:4.0%}"
        text = f"  {self.title}: {bar} {self.done:,}/{self.total:,} {self.unit}, {rate:.3g}/s, {eta}"
        return f"{text}, {note}" if note else text


def duration(seconds: float) -> str:
    """Write seconds for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Lay rows out in columns as wide as their content."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([padded[0], "  ".join("-" * width for width in widths), *padded[1:]])
