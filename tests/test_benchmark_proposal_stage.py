"""What counts as an idle worker, on events made by hand; and what counts as a bare search."""

import sys

import numpy as np
import psutil
import pytest
from PIL import Image

from benchmarks.idle_workers import Event, idle_gaps
from benchmarks.proposal_stage import CpuWatch, bare_cpu_seconds


def events(**by_node):
    return [Event(start, end, node) for node, times in by_node.items() for start, end in times]


def test_gaps_lie_between_the_parts_of_a_node():
    assert sorted(idle_gaps(events(a=[(0, 1), (1.25, 2)], b=[(0, 1.5), (2, 3)]))) == [0.25, 0.5]


def test_a_node_that_gets_no_part_while_others_wait_is_idle():
    # From 1 until the last part begins at 4, b could have had one.
    assert idle_gaps(events(a=[(0, 2), (2, 4), (4, 6)], b=[(0, 1)])) == [3]


def test_nothing_waits_once_the_last_part_has_begun():
    assert idle_gaps(events(a=[(0, 2), (2, 9)], b=[(0, 2.5)])) == []
    assert idle_gaps(events(a=[(0, 5)])) == []


def test_order_of_the_events_does_not_matter():
    listed = events(a=[(0, 1), (1.5, 2), (2.25, 3)])
    assert sorted(idle_gaps(listed[::-1])) == sorted(idle_gaps(listed)) == [0.25, 0.5]


def test_bare_searches_take_cpu_seconds(tmp_path):
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for path in files:
        Image.fromarray(np.repeat(np.repeat(rng.integers(0, 255, (8, 8, 3), np.uint8), 12, 0), 12, 1)).save(path)
    assert bare_cpu_seconds(files, "fast", workers=1) > 0


def test_processes_that_have_ended_keep_their_cpu_seconds():
    watch = CpuWatch(psutil.Process())
    child = psutil.Popen([sys.executable, "-c", "input()"], stdin=-1, stdout=-3)
    key = (child.pid, child.create_time())
    before = watch.sample()[key]
    child.communicate(b"\n")
    assert watch.sample()[key] == pytest.approx(before)
