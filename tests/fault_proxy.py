"""A small HTTP proxy that fails on purpose: what passes it meets 503s, resets and stalls, drawn by a seed.

Faults are drawn anew for each request, also on connections that are kept alive. A request that fails may have reached
the server or not: that is what makes retries hard.
"""

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Self

_CHUNK = 64 * 1024
_STEP_SECONDS = 0.05
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
FAULTS = (
    "slow down",  # 503, the request never reaches the server
    "reset in request",  # the connection breaks in the middle of the request's body
    "reset before response",  # the server did what it was asked, the answer is lost
    "reset in response",  # the connection breaks in the middle of the answer
    "stall before request",  # nothing happens for longer than the client waits
    "stall before response",  # the server did what it was asked, the answer does not come
    "stall in response",  # the answer stops in the middle
)


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
        slow_down: share of requests that are answered with 503.
        reset: share of requests whose connection breaks.
        stall: share of requests that hang.
        stall_seconds: how long; take more than the client's read timeout.
        seed: of the draws.
        bytes_a_second: speed of each request's body; 0 for no limit.
    """

    slow_down: float = 0.0
    reset: float = 0.0
    stall: float = 0.0
    stall_seconds: float = 5.0
    seed: int = 0
    bytes_a_second: float = 0.0

    def draw(self, number: int) -> str:
        """Return what goes wrong with a request, "" for nothing."""
        draws = random.Random(f"{self.seed} {number}")
        kind = draws.random()
        for share, name in ((self.slow_down, "slow down"), (self.reset, "reset"), (self.stall, "stall")):
            if kind < share:
                return draws.choice([fault for fault in FAULTS if fault.startswith(name)])
            kind -= share
        return ""

    @classmethod
    def mixed(cls, rate: float, **options) -> "Faults":
        """Mix the three kinds evenly to a total rate."""
        return cls(rate / 3, rate / 3, rate / 3, **options)


class _BrokenError(Exception):
    """This connection breaks here."""


class _EndedError(Exception):
    """This connection ends here, as the end of an answer whose length nobody told."""


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes HTTP/1.1 requests on to another; a context manager.

    Args:
        upstream: port of the server on 127.0.0.1.
        faults: what goes wrong; may be exchanged while it runs.

    Attributes:
        port: where it listens.
        counts: what it did, by kind; ``passed`` for what went through.
        received: bytes of request bodies so far.
        requests: the first line of each request.
        arriving: the first lines of the requests whose bodies are on their way.
    """

    def __init__(self, upstream: int, faults: Faults | None = None) -> None:
        self.upstream = upstream
        self.faults = faults or Faults()
        self.counts: Counter[str] = Counter()
        self.received = 0
        self.requests: list[str] = []
        self.arriving: list[str] = []
        self._cuts = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        # Else the kernel takes in megabytes that the proxy has not read, and a throttled client seems to be done.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _CHUNK)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="fault proxy", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        """Break off every request whose body is on its way."""
        self._cuts += 1

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Serve one client until it leaves or its connection is broken."""
        with connection, connection.makefile("rb") as reader:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while (head := _read_head(reader)) and not self._stopped.is_set():
                    self._pass_on(connection, reader, head)
            except _EndedError:
                pass
            except (_BrokenError, OSError, ValueError):
                # Closing with a linger of zero sends RST instead of FIN.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pass_on(self, connection: socket.socket, reader: BinaryIO, head: bytes) -> None:
        line = head.split(b"\r\n")[0].decode()
        with self._lock:
            fault = self.faults.draw(len(self.requests))
            self.requests.append(line)
            self.counts[fault or "passed"] += 1
        if fault == "stall before request":
            self._stall()
        if b"\r\nexpect: 100-continue\r\n" in head.lower():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._arriving(_read_body(reader, head), line)
        if fault == "slow down":
            for _ in body:
                pass
            answer = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(answer % len(_SLOW_DOWN) + (b"" if head.startswith(b"HEAD") else _SLOW_DOWN))
            return
        with socket.create_connection(("127.0.0.1", self.upstream)) as server, server.makefile("rb") as answers:
            server.sendall(_for_upstream(head))
            if fault == "reset in request":
                chunk = next(body, b"")
                server.sendall(chunk[: len(chunk) // 2])
                raise _BrokenError
            for chunk in body:
                server.sendall(chunk)
            self._answer(connection, answers, head, fault)

    def _answer(self, connection: socket.socket, answers: BinaryIO, request: bytes, fault: str) -> None:
        head = _read_head(answers)
        while head.startswith(b"HTTP/1.1 100"):
            head = _read_head(answers)
        if fault.endswith("before response"):
            self._break(fault)
        has_body = not request.startswith(b"HEAD") and head.split()[1] not in (b"204", b"304")
        ends = not has_body or _header(head, b"content-length") or _header(head, b"transfer-encoding")
        head = _without(head, b"connection", b"keep-alive") + (b"" if ends else b"Connection: close\r\n") + b"\r\n"
        body = _read_body(answers, head, to_the_end=True) if has_body else iter(())
        if fault.endswith("in response"):
            chunk = next(body, b"")
            connection.sendall(head + chunk[: len(chunk) // 2] if chunk else head[: len(head) // 2])
            self._break(fault)
        connection.sendall(head)
        for chunk in body:
            connection.sendall(chunk)
        if not ends:
            raise _EndedError

    def _break(self, fault: str) -> None:
        if fault.startswith("stall"):
            self._stall()
        raise _BrokenError

    def _stall(self) -> None:
        self._stopped.wait(self.faults.stall_seconds)
        raise _BrokenError

    def _arriving(self, body: Iterator[bytes], line: str) -> Iterator[bytes]:
        """Yield a request's body as it comes, at the speed that is allowed."""
        cuts = self._cuts
        self.arriving.append(line)
        try:
            for chunk in body:
                speed = self.faults.bytes_a_second
                size = max(1, int(speed * _STEP_SECONDS)) if speed else len(chunk)
                for start in range(0, len(chunk), size):
                    piece = chunk[start : start + size]
                    if speed:
                        self._stopped.wait(len(piece) / speed)
                    if self._cuts > cuts or self._stopped.is_set():
                        raise _BrokenError
                    with self._lock:
                        self.received += len(piece)
                    yield piece
        finally:
            self.arriving.remove(line)


def _read_head(reader: BinaryIO) -> bytes:
    """Read a request's or answer's lines up to the empty one, which is left out; b"" at the end of the stream."""
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b"\n"):
        if not line:
            return b""
        lines.append(line)
    return b"".join(lines)


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def _without(head: bytes, *names: bytes) -> bytes:
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in names]
    return b"\r\n".join([first, *kept]) + b"\r\n"


def _for_upstream(head: bytes) -> bytes:
    # A new connection a request: a broken one then takes nothing else down with it.
    return _without(head, b"connection", b"expect") + b"Connection: close\r\n\r\n"


def _read_body(reader: BinaryIO, head: bytes, *, to_the_end: bool = False) -> Iterator[bytes]:
    """Yield a body as it stands on the wire, chunk marks included, in pieces of at most 64 KiB."""
    if _header(head, b"transfer-encoding").lower() == b"chunked":
        while True:
            size_line = reader.readline()
            size = int(size_line.split(b";")[0], 16)
            yield size_line + reader.read(size + 2)
            if size == 0:
                return
    length = _header(head, b"content-length")
    left = int(length) if length else (2**62 if to_the_end else 0)
    while left:
        piece = reader.read(min(_CHUNK, left)) if length else reader.read1(_CHUNK)
        if not piece:
            if length:
                raise _BrokenError  # the other side left in the middle
            return
        yield piece
        left -= len(piece)
