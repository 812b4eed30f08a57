"""One living writer for each training output: leases with fencing tokens.

A lease is a folder of numbered claims. Claim n is made by creating file n exclusively (a link on a disk, a
conditional put in a bucket), so exactly one of several contenders gets it; the highest claim holds the lease, and its
number is the fencing token. A holder renews its claim until it releases it. A claim is dead when it was released, when
its process on this host is gone, or when another host has not renewed it for longer than its own promise. Taking over
means claiming n + 1; a slow writer of claim n sees the higher number and stops before it writes.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from orl_ray.folders import Folder
from orl_ray.storage import Store


class LeaseHeldError(RuntimeError):
    """Another living driver is writing the same output."""


class LeaseLostError(RuntimeError):
    """Another driver took the lease over; this one must not write any more."""


class Lease:
    """Hold the right to write one output; a context manager.

    Args:
        store: the store.
        output: what is written, for example ``image_level/<key>``.
        promise: seconds without a renewal after which other hosts may take the lease for dead.
        run_id: who holds it, for messages.

    Raises:
        LeaseHeldError: on entry, when a living holder exists.
    """

    def __init__(self, store: Store, output: str, *, promise: float, run_id: str) -> None:
        self.folder = lease_folder(store, output)
        self.output = output
        self.promise = promise
        self.run_id = run_id
        self.fence = 0
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> Self:
        while True:
            current = latest_fence(self.folder)
            if current:
                self._refuse_if_alive(current)
            try:
                self._claim(current + 1)
            except FileExistsError:
                continue  # another contender was faster: look at its claim
            self.fence = current + 1
            break
        self._renewer = threading.Thread(target=self._renew, name=f"lease {self.output}", daemon=True)
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._renewer is not None:
            self._renewer.join()
        if latest_fence(self.folder) == self.fence:
            self._write_claim(released=True)

    def _claim(self, fence: int) -> None:
        self.folder.create(_claim_name(fence), self._claim_bytes(released=False))

    def _write_claim(self, *, released: bool) -> None:
        self.folder.write(_claim_name(self.fence), self._claim_bytes(released=released))

    def _claim_bytes(self, *, released: bool) -> bytes:
        claim = {
            "claim": self._token,  # no two contenders' claims are equal
            "host": socket.gethostname(),
            "processes": _process_namespace(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "promise": self.promise,
            "released": released,
            "renewed": time.time(),
            "run_id": self.run_id,
        }
        return json.dumps(claim).encode()

    def _renew(self) -> None:
        while not self._stop.wait(self.promise / 4):
            with contextlib.suppress(OSError):  # a passing storage error; the promise covers several renewals
                if latest_fence(self.folder) != self.fence:
                    return
                self._write_claim(released=False)

    def _refuse_if_alive(self, fence: int) -> None:
        claim = json.loads(self.folder.read(_claim_name(fence)))
        if not is_alive(claim):
            return
        raise LeaseHeldError(
            f"{self.output} is being written by run {claim['run_id']} (process {claim['pid']} on {claim['host']}). "
            "Wait for it, or stop it and start this run again; a dead holder is taken over by itself."
        )


def holder(store: Store, output: str) -> str | None:
    """Return who holds the lease on an output, as its ``run_id``, or None where nobody who lives does."""
    folder = lease_folder(store, output)
    fence = latest_fence(folder)
    try:
        claim = json.loads(folder.read(_claim_name(fence))) if fence else None
    except FileNotFoundError:  # it left this moment
        return None
    return str(claim["run_id"]) if claim is not None and is_alive(claim) else None


def lease_folder(store: Store, output: str) -> Folder:
    """Return the folder of an output's claims."""
    return store.root / f"leases/{output}"


def latest_fence(folder: Folder) -> int:
    """Return the number of the highest claim, 0 where there is none."""
    return max((int(name.removesuffix(".json")) for name in folder.names() if name[:1].isdigit()), default=0)


def _claim_name(fence: int) -> str:
    return f"{fence:08d}.json"


def check_fence(store: Store, output: str, fence: int) -> None:
    """Raise :class:`LeaseLostError` unless ``fence`` still is the highest claim on ``output``."""
    highest = latest_fence(lease_folder(store, output))
    if highest != fence:
        raise LeaseLostError(f"{output}: lease {fence} was taken over by lease {highest}; nothing more is written")


def _process_namespace() -> str:
    """Name what process ids mean something in: containers and machines may share a host name, none shares this."""
    link, boot = Path("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id")
    names = (str(link.readlink()) if link.is_symlink() else "", boot.read_text().strip() if boot.exists() else "")
    return " ".join(names)


def is_alive(claim: dict[str, Any]) -> bool:
    """Tell whether a claim's holder still lives: by its process on this host, by its last renewal elsewhere."""
    if claim["released"]:
        return False
    if claim["host"] == socket.gethostname() and claim["processes"] == _process_namespace():
        try:
            process = psutil.Process(claim["pid"])
            same = abs(process.create_time() - float(claim["process_started"])) < 1  # process ids are re-used
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
    return time.time() - float(claim["renewed"]) < float(claim["promise"])
