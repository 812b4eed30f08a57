"""A real Ray cluster on this machine that asks for its token: a head as ``ray start`` makes it, further nodes, the job
server. Nothing of it outlives the block, and no other Ray on the machine is touched.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

RAY = Path(sys.executable).with_name("ray")
PATIENCE = 240.0


class PrivateCluster:
    """A cluster whose files, home and ports are its own.

    Args:
        folder: private folder, short: Unix sockets live in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.gcs_port, self.job_port = _free_port(), _free_port()
        self.gcs, self.jobs = f"127.0.0.1:{self.gcs_port}", f"http://127.0.0.1:{self.job_port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def environment(self, **changes: str) -> dict[str, str]:
        """What programs need that are to reach the cluster; an empty value takes a variable away."""
        private = ("RAY_", "AWS_", "ORL_STORAGE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(private)}
        own = {
            "HOME": str(self.home),
            "PATH": f"{RAY.parent}:{os.environ['PATH']}",
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return {name: value for name, value in {**kept, **own, **changes}.items() if value}

    def start_head(self, cpus: int) -> None:
        self.home.mkdir()
        made = self.ray("get-auth-token", "--generate")
        assert made.returncode == 0, made.stdout
        self._start(
            "--head",
            f"--port={self.gcs_port}",
            f"--dashboard-port={self.job_port}",
            "--dashboard-host=127.0.0.1",
            f"--ray-client-server-port={_free_port()}",
            f"--num-cpus={cpus}",
        )

    def add_node(self, cpus: int, wrapper: tuple[str, ...] = ()) -> None:
        """Start another node, inside ``wrapper``, for example a mount namespace of its own."""
        self._start(f"--address={self.gcs}", f"--num-cpus={cpus}", wrapper=wrapper)

    def ray(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the command line of Ray; its two outputs come as one."""
        return subprocess.run(
            [RAY, *arguments],
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    def kill_newest_node(self) -> None:
        """Kill all processes of the node that was started last, at once."""
        _kill(self._processes.pop())

    def end(self) -> None:
        for process in self._processes:
            _kill(process)

    def _start(self, *arguments: str, wrapper: tuple[str, ...] = ()) -> None:
        log = self.folder / f"start-{uuid.uuid4().hex[:8]}.log"
        common = (f"--dashboard-agent-listen-port={_free_port()}", f"--object-store-memory={200 * 2**20}", "--block")
        process = subprocess.Popen(
            [*wrapper, RAY, "start", *arguments, *common],
            env=self.environment(),
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes.append(process)
        limit = time.monotonic() + PATIENCE
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.1)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    process.wait()


@contextlib.contextmanager
def private_cluster(cpus: int) -> Iterator[PrivateCluster]:
    """Run a head; it ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="orl"))
    cluster = PrivateCluster(folder)
    try:
        cluster.start_head(cpus)
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
