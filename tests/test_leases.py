"""Leases: one living writer for each output, dead ones are taken over, and slow ones are stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from orl_ray import leases
from orl_ray.leases import Lease, LeaseHeldError, LeaseLostError, check_fence, is_alive, latest_fence, lease_folder
from orl_ray.storage import Store

OUTPUT = "image_level/abc"
HOLD = (
    "import sys, time; from orl_ray.leases import Lease; from orl_ray.storage import Store\n"
    f"with Lease(Store(sys.argv[1]), '{OUTPUT}', promise=3600, run_id='child') as lease:\n"
    "    print(lease.fence, flush=True); time.sleep(600)\n"
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def lease(store, promise=30.0, run_id="me"):
    return Lease(store, OUTPUT, promise=promise, run_id=run_id)


def claim_of(**changes):
    """Return a claim of this very process, with changes."""
    mine = {
        "host": socket.gethostname(),
        "processes": leases._process_namespace(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "promise": 30.0,
        "released": False,
        "renewed": time.time(),
        "run_id": "earlier",
    }
    return {**mine, **changes}


def write_claim(store, fence=1, **changes):
    folder = lease_folder(store, OUTPUT)
    folder.write(f"{fence:08d}.json", json.dumps(claim_of(**changes)).encode())


@pytest.fixture
def holder(store):
    """Start a process that holds the lease; end it afterwards."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, store.root.uri], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "1"
    yield child
    if child.poll() is None:
        child.kill()
    child.wait()
    child.stdout.close()


class TestHolding:
    def test_the_first_holder_has_the_first_fence_and_each_later_one_a_higher(self, store):
        fences = []
        for _ in range(3):
            with lease(store) as held:
                fences.append(held.fence)
        assert fences == [1, 2, 3]

    def test_a_held_lease_is_refused_with_the_name_of_its_holder(self, store):
        with lease(store, run_id="20260101-run"):
            told = f"{OUTPUT} is being written by run 20260101-run .process {os.getpid()} on "
            with pytest.raises(LeaseHeldError, match=told), lease(store):
                pass
            assert latest_fence(lease_folder(store, OUTPUT)) == 1

    def test_a_released_lease_is_free(self, store):
        with lease(store):
            pass
        with lease(store) as second:
            check_fence(store, OUTPUT, second.fence)

    def test_an_error_inside_releases_the_lease(self, store):
        with pytest.raises(RuntimeError, match="training failed"), lease(store):
            raise RuntimeError("training failed")
        with lease(store) as again:
            assert again.fence == 2

    def test_outputs_do_not_disturb_each_other(self, store):
        with lease(store), Lease(store, "image_level/other", promise=30, run_id="me") as other:
            assert other.fence == 1

    def test_a_holder_renews_its_claim_and_stops_when_it_leaves(self, store):
        path = lease_folder(store, OUTPUT).local / "00000001.json"
        with lease(store, promise=0.2):
            first = json.loads(path.read_bytes())["renewed"]
            wait_for(lambda: json.loads(path.read_bytes())["renewed"] > first)
        assert json.loads(path.read_bytes())["released"]
        assert not [thread for thread in threading.enumerate() if thread.name == f"lease {OUTPUT}"]

    def test_a_passing_storage_error_does_not_end_the_renewals(self, store, monkeypatch):
        path = lease_folder(store, OUTPUT).local / "00000001.json"
        with lease(store, promise=0.2) as held:
            failures = []
            write = held._write_claim

            def fail_twice(*, released):
                if len(failures) < 2:
                    failures.append(released)
                    raise OSError("timed out")
                write(released=released)

            monkeypatch.setattr(held, "_write_claim", fail_twice)
            before = json.loads(path.read_bytes())["renewed"]
            wait_for(lambda: json.loads(path.read_bytes())["renewed"] > before)
            assert len(failures) == 2

    def test_a_finished_claim_leaves_no_other_files(self, store):
        with lease(store):
            pass
        assert [path.name for path in lease_folder(store, OUTPUT).local.iterdir()] == ["00000001.json"]


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class TestContending:
    def contend(self, store, count):
        """Let ``count`` threads enter at once; return the fences of those that got in, and how many were refused."""
        barrier, done = threading.Barrier(count), threading.Event()
        fences, refused = [], []

        def enter():
            barrier.wait()
            try:
                with lease(store) as held:
                    fences.append(held.fence)
                    done.wait(30)
            except LeaseHeldError:
                refused.append(1)

        threads = [threading.Thread(target=enter) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: len(fences) + len(refused) == count)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        return fences, len(refused)

    def test_of_several_threads_exactly_one_gets_a_free_lease(self, store):
        for round_number in range(1, 6):
            assert self.contend(store, 8) == ([round_number], 7)

    def test_a_race_to_take_over_has_one_winner(self, store):
        write_claim(store, fence=4, host="elsewhere", renewed=time.time() - 100)
        assert self.contend(store, 8) == ([5], 7)

    def test_of_two_processes_exactly_one_gets_the_lease(self, store):
        # Both are started and imported before either is told to go.
        code = HOLD.replace("with Lease", "print('ready', flush=True); sys.stdin.readline()\nwith Lease", 1)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, store.root.uri],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        try:
            assert [child.stdout.readline().strip() for child in children] == ["ready", "ready"]
            for child in children:
                child.stdin.write("go\n")
                child.stdin.flush()
            wait_for(lambda: any(child.poll() is not None for child in children))
            (loser,) = (child for child in children if child.poll() is not None)
            (winner,) = (child for child in children if child is not loser)
            assert winner.stdout.readline().strip() == "1"
            assert "LeaseHeldError" in loser.stderr.read()
            assert winner.poll() is None
        finally:
            for child in children:
                child.kill()
                child.communicate()


class TestDeath:
    def test_a_killed_holder_is_taken_over_at_once(self, store, holder):
        with pytest.raises(LeaseHeldError), lease(store):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with lease(store) as taken:
            assert taken.fence == 2

    def test_a_zombie_holder_is_dead(self, store, holder):
        holder.send_signal(signal.SIGKILL)
        wait_for(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE)
        with lease(store) as taken:  # nobody has reaped it: its process id is still taken
            assert psutil.pid_exists(holder.pid)
            assert taken.fence == 2

    def test_a_stopped_holder_still_lives(self, store, holder):
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(LeaseHeldError), lease(store):
            pass

    def test_a_living_process_is_not_dead_however_long_it_was_silent(self):
        assert is_alive(claim_of(renewed=time.time() - 10_000))

    def test_a_process_id_that_is_used_again_is_another_process(self):
        assert not is_alive(claim_of(process_started=psutil.Process().create_time() - 100))

    def test_a_released_claim_is_dead(self):
        assert not is_alive(claim_of(released=True))

    @pytest.mark.parametrize("place", [{"host": "elsewhere"}, {"processes": "pid:[1]"}])
    def test_a_claim_of_another_host_or_container_is_dead_only_after_its_own_promise(self, place):
        assert is_alive(claim_of(**place, promise=30, renewed=time.time() - 20))
        assert not is_alive(claim_of(**place, promise=30, renewed=time.time() - 40))
        assert is_alive(claim_of(**place, promise=60, renewed=time.time() - 40))

    def test_a_process_id_of_another_host_says_nothing_here(self):
        gone = 2**22 + 1  # above the largest process id of Linux
        assert not is_alive(claim_of(pid=gone))
        assert is_alive(claim_of(pid=gone, host="elsewhere"))


class TestFencing:
    def test_the_holder_passes(self, store):
        with lease(store) as held:
            check_fence(store, OUTPUT, held.fence)

    def test_a_holder_that_was_taken_over_is_stopped(self, store):
        with lease(store) as slow:
            write_claim(store, fence=2, host="elsewhere")
            with pytest.raises(LeaseLostError, match="lease 1 was taken over by lease 2; nothing more is written"):
                check_fence(store, OUTPUT, slow.fence)

    def test_a_holder_that_was_taken_over_neither_renews_nor_releases(self, store):
        mine = lease_folder(store, OUTPUT).local / "00000001.json"
        with lease(store, promise=0.1) as slow:
            write_claim(store, fence=2, host="elsewhere")
            wait_for(lambda: not slow._renewer.is_alive())
            last = mine.read_bytes()
        assert mine.read_bytes() == last
        assert not json.loads((mine.parent / "00000002.json").read_bytes())["released"]

    def test_a_fence_without_any_claim_is_lost(self, store):
        with pytest.raises(LeaseLostError):
            check_fence(store, OUTPUT, 1)
