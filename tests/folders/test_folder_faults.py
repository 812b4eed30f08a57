"""Object storage that fails: what passes with time is survived, what lasts is told in time, nothing is half there."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from fault_proxy import FaultProxy, Faults
from main_job_process import wait_until
from object_store import reached_by

from orl_ray.folders import Folder, StorageUnavailableError, retries

# Seconds: how long the client waits, and how long a stall lasts.
PATIENCE, STALL = 0.3, 0.6


@dataclass(frozen=True)
class Scripted(Faults):
    """Faults in a given order; afterwards everything passes."""

    script: tuple[str, ...] = ()

    def draw(self, number):
        return self.script[number] if number < len(self.script) else ""


class Route:
    """A new bucket, and ways to it: straight, and through a proxy."""

    def __init__(self, server, proxy):
        self.server, self.proxy = server, proxy
        self.folder = Folder(server.create_bucket(f"bucket-{uuid.uuid4().hex[:12]}")) / "folder"
        self.environment = {**server.environment(proxy.port), "ORL_STORAGE_TIMEOUT": str(PATIENCE)}

    def meet(self, *script):
        """Let the next requests meet these faults."""
        self.proxy.requests.clear()
        self.proxy.faults = Scripted(stall_seconds=STALL, script=script)


@pytest.fixture
def route(server, monkeypatch):
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.1)
    with FaultProxy(server.port) as proxy:
        found = Route(server, proxy)
        with reached_by(found.environment):
            found.folder.exists("x")  # Google's client asks for the bucket once; that must not meet scripted faults
            time.sleep(0.05)
            yield found


@pytest.fixture
def s3_route(s3_server, monkeypatch):
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.1)
    with FaultProxy(s3_server.port) as proxy:
        found = Route(s3_server, proxy)
        with reached_by(found.environment):
            yield found


def test_hundreds_of_operations_survive_ten_per_cent_of_faults(route):
    folder = route.folder
    route.proxy.faults = Faults.mixed(0.1, seed=3, stall_seconds=STALL)

    def work(worker):
        draws, kept = random.Random(worker), {}
        for turn in range(6):
            name, data = f"{worker}/ü {turn}", draws.randbytes(draws.choice([0, 10, 1000, 300_000]))
            (folder.write, folder.create)[turn % 2](name, data)
            kept[name] = data
            assert folder.read(name) == data
            assert folder.read_range(name, 5, 100) == data[5:105]
            with pytest.raises(FileExistsError):
                folder.create(name, b"of somebody else")
            if turn % 3 == 2:
                kept.pop(name)
                folder.delete(name)
            assert folder.exists(name) == (name in kept)
        assert {f"{worker}/{name}" for name in folder.names(str(worker))} == set(kept)
        return kept

    with ThreadPoolExecutor(8) as pool:
        expected = {name: data for kept in pool.map(work, range(8)) for name, data in kept.items()}
    assert [(info.path, info.bytes) for info in folder.files()] == sorted((n, len(d)) for n, d in expected.items())
    assert {name: folder.read(name) for name in expected} == expected
    folder.delete_folder()
    assert not folder.exists()
    counts = route.proxy.counts
    faults = sum(count for kind, count in counts.items() if kind != "passed")
    assert counts.total() > 250
    assert 0.05 < faults / counts.total() < 0.16
    assert len(counts) >= 7, f"hardly any kinds of faults were met: {counts}"


@pytest.mark.parametrize("lost", ["reset before response", "stall before response", "reset in response"])
def test_creator_whose_answer_was_lost_owns_the_file(route, lost):
    route.meet(lost, "slow down", lost)
    route.folder.create("claim", b"ours")
    assert len(route.proxy.requests) > 2, "the creator did not try again"
    assert route.folder.read("claim") == b"ours"
    route.meet(lost)
    with pytest.raises(FileExistsError):
        route.folder.create("claim", b"theirs")
    assert route.folder.read("claim") == b"ours"


def test_one_of_many_contenders_creates_a_file_whatever_is_lost(route):
    route.proxy.faults = Faults(slow_down=0.1, reset=0.4, seed=1)

    def contend(number):
        try:
            route.folder.create("claim", b"contender %d" % number)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(contend, range(8)))
    assert won.count(True) == 1
    assert route.folder.read("claim") == b"contender %d" % won.index(True)


@pytest.mark.parametrize("fault", ["slow_down", "reset", "stall"])
def test_storage_that_is_down_is_given_up_in_time(route, fault, monkeypatch):
    monkeypatch.setattr(retries, "ATTEMPTS", 4)  # half as many as for users, for the sake of the test's time
    route.proxy.faults = Faults(**{fault: 1.0}, stall_seconds=STALL)
    actions = [
        lambda: route.folder.read("x"),
        lambda: route.folder.create("x", b"1"),
        route.folder.names,
        lambda: route.folder.write("x", bytes(20 * 2**20)),
    ]

    def give_up(action):
        started = time.monotonic()
        with pytest.raises(StorageUnavailableError, match=route.folder.uri):
            action()
        return time.monotonic() - started

    with ThreadPoolExecutor(4) as pool:
        seconds = list(pool.map(give_up, actions))
    # As many silences, the pauses between, and as much again for the machine's other work.
    assert max(seconds) < 2 * retries.ATTEMPTS * (PATIENCE + retries.LONGEST_PAUSE)


def test_storage_that_is_gone_is_told_with_its_name(s3_server, monkeypatch):
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.01)
    with FaultProxy(s3_server.port) as proxy:
        port = proxy.port
    with reached_by(s3_server.environment(port)), pytest.raises(StorageUnavailableError, match="s3://some-bucket/x"):
        Folder("s3://some-bucket").read("x")


def test_body_that_breaks_off_leaves_nothing(route):
    route.folder.write("old", b"as it was")
    route.meet(*["reset in request"] * retries.ATTEMPTS)
    with pytest.raises(StorageUnavailableError):
        route.folder.write("old", bytes(100_000))
    route.meet(*["reset in request"] * retries.ATTEMPTS)
    with pytest.raises(StorageUnavailableError):
        route.folder.create("new", bytes(100_000))
    time.sleep(0.1)
    assert route.folder.names() == {"old"}
    assert route.folder.read("old") == b"as it was"


def test_large_upload_survives_faults_in_each_of_its_requests(s3_route):
    data = random.Random(0).randbytes(17 * 2**20)  # opened, two parts, completed
    for fault in ("reset in request", "stall before response"):
        s3_route.meet(fault, "", fault, fault, "", "", fault)
        s3_route.folder.write("large", data)
        assert s3_route.folder.read("large") == data
        s3_route.folder.delete("large")


def test_completed_upload_whose_answer_was_lost_counts(s3_route, monkeypatch):
    # Amazon forgets a completed upload after a while and then denies it; moto never does.
    from botocore.exceptions import ClientError

    from orl_ray.folders import s3

    data, client = random.Random(0).randbytes(17 * 2**20), s3._client()
    complete, calls = client.complete_multipart_upload, []

    def forget(**upload):
        calls.append(upload)
        if len(calls) == 1:
            complete(**upload)
            raise ConnectionResetError
        answer = {"Error": {"Code": "NoSuchUpload"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
        raise ClientError(answer, "CompleteMultipartUpload")

    monkeypatch.setattr(client, "complete_multipart_upload", forget)
    s3_route.folder.write("large", data)
    assert s3_route.folder.read("large") == data
    with pytest.raises(FileNotFoundError):  # this one really is gone
        s3_route.folder.write("another", data)


@pytest.mark.parametrize("size", [8 * 2**20, 40 * 2**20], ids=["one put", "in parts"])
def test_process_killed_in_the_middle_of_an_upload_leaves_nothing(route, size):
    route.folder.write("old", b"as it was")
    script = "import sys; from orl_ray.folders import Folder; [Folder(sys.argv[1]).write(n, bytes({})) for n in {}]"
    for names in (["new"], ["old"]):
        already = route.proxy.received
        route.proxy.faults = Faults(bytes_a_second=size)
        code = script.format(size, names)
        environment = {**os.environ, **route.environment, "ORL_STORAGE_TIMEOUT": "20"}
        uploader = subprocess.Popen([sys.executable, "-c", code, route.folder.uri], env=environment)
        wait_until(lambda start=already: route.proxy.received > start + size / 4, uploader, "a quarter of the upload")
        uploader.send_signal(signal.SIGKILL)
        assert uploader.wait() == -signal.SIGKILL, "the upload ended before the kill"
        received = route.proxy.received
        assert received < already + size
        route.proxy.faults = Faults()
        time.sleep(0.3)  # what the proxy still holds may arrive
        assert route.folder.names() == {"old"}
        assert route.folder.read("old") == b"as it was"
