"""Running a plan: what an error or an interrupt does to what is under way."""

import threading
import time

import pytest

from orl_ray.execution import _stage_threads


def test_an_interrupt_ends_what_stages_wait_for_instead_of_waiting_for_them(monkeypatch):
    ray = pytest.importorskip("ray")
    released = threading.Event()
    monkeypatch.setattr(ray, "shutdown", released.set)

    def interrupted():
        with _stage_threads(1) as pool:
            pool.submit(released.wait, 30)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert released.is_set()
    assert time.monotonic() - started < 10


def test_without_an_error_stages_are_waited_for():
    done = []
    with _stage_threads(1) as pool:
        pool.submit(lambda: done.append(time.sleep(0.1)))
    assert len(done) == 1
