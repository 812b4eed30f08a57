"""Where the time of a step goes: parts and shares on the host, events on a GPU."""

import types

import pytest
import torch

from orl_ray.pretraining import step_clock
from orl_ray.pretraining.step_clock import StepClock


@pytest.fixture
def sleep(monkeypatch):
    """Return a function that lets seconds pass."""
    now = [100.0]
    monkeypatch.setattr(step_clock, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def passing(seconds):
        now[0] += seconds

    return passing


def part(clock, sleep, name, seconds):
    with clock.part(name):
        sleep(seconds)


def test_parts_are_means_over_the_steps_and_waiting_is_a_share_of_all_time(sleep):
    clock = StepClock(torch.device("cpu"), batch_size=8)
    for forward in (1.0, 3.0):
        clock.step()
        part(clock, sleep, "data", 0.5)
        part(clock, sleep, "forward", forward)
        sleep(1.5)
    assert clock.read() == {
        "images_per_second": pytest.approx(2 * 8 / 8),
        "data_wait": pytest.approx(1 / 8),
        "ms_data": pytest.approx(500),
        "ms_forward": pytest.approx(2000),
    }


def test_a_part_may_come_several_times_in_a_step(sleep):
    clock = StepClock(torch.device("cpu"), 4)
    clock.step()
    for _ in range(3):
        part(clock, sleep, "backward", 0.25)
    assert clock.read()["ms_backward"] == pytest.approx(750)


def test_a_reading_begins_anew(sleep):
    clock = StepClock(torch.device("cpu"), 4)
    clock.step()
    part(clock, sleep, "checkpoint", 9)
    clock.read()
    clock.step()
    sleep(2)
    assert clock.read() == {"images_per_second": pytest.approx(2), "data_wait": 0}


class FakeEvent:
    """Stands for an event that a GPU passes a second after it was asked."""

    waited_for = 0
    recorded = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.recorded += 1
        self.at = FakeEvent.recorded

    def synchronize(self):
        FakeEvent.waited_for += 1

    def elapsed_time(self, end):
        return 1000.0 * (end.at - self.at)


def test_on_a_gpu_the_last_steps_events_are_read_and_nothing_waits_before(sleep, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "waited_for", 0)
    clock = StepClock(torch.device("cuda"), 4)
    for passes in (5, 2):
        clock.step()
        part(clock, sleep, "data", 1)
        for _ in range(passes):
            part(clock, sleep, "forward", 0)
    assert FakeEvent.waited_for == 0
    readings = clock.read()
    assert FakeEvent.waited_for == 1
    assert readings["ms_forward"] == pytest.approx(2000)
    assert readings["ms_data"] == pytest.approx(1000)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_tells_how_long_it_took():
    clock = StepClock(torch.device("cuda"), 4)
    matrix = torch.randn(4096, 4096, device="cuda")
    clock.step()
    with clock.part("forward"):
        for _ in range(20):
            matrix = matrix @ matrix / 64
    readings = clock.read()
    assert 0 < readings["ms_forward"] <= 1000 * 4 / readings["images_per_second"]
