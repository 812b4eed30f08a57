"""Progress: what people read, in a terminal and in a log."""

import io
import threading

import pytest

from orl_ray import progress
from orl_ray.progress import Console, StageProgress, duration, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that the test sets."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (0.6, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_a_table_is_as_wide_as_its_content_and_leaves_no_blanks_at_the_end():
    assert table(("stage", "n"), [("a", "10"), ("longer name", "")]).splitlines() == [
        "stage        n",
        "-----------  --",
        "a            10",
        "longer name",
    ]


class TestConsole:
    def test_lines_go_to_a_log_as_they_are(self):
        stream = io.StringIO()
        Console(stream).line("one")
        assert stream.getvalue() == "one\n"

    def test_a_line_replaces_the_bar_of_a_terminal(self):
        stream = Terminal()
        console = Console(stream)
        console.bar("[##  ]")
        console.line("done")
        assert stream.getvalue() == "[##  ]\r\x1b[2Kdone\n"

    def test_a_bar_replaces_the_bar_before_it(self):
        stream = Terminal()
        console = Console(stream)
        console.bar("1")
        console.bar("2")
        assert stream.getvalue() == "1\r\x1b[2K2"

    def test_lines_of_several_threads_never_mix(self):
        stream = io.StringIO()
        console = Console(stream)
        lines = [letter * 50 for letter in "abcd"]
        threads = [threading.Thread(target=lambda t=text: [console.line(t) for _ in range(50)]) for text in lines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written = stream.getvalue().splitlines()
        assert len(written) == 200
        assert set(written) == set(lines)


class TestStageProgress:
    def stage(self, stream=None, total=1000):
        return StageProgress(Console(stream or io.StringIO()), "embed images", total, "images")

    def test_tells_count_rate_and_eta(self, clock):
        stage = self.stage()
        clock.now += 10
        stage.update(250)
        assert stage.text() == "  embed images:  25% 250/1,000 images, 25/s, ETA 30 s"
        assert stage.text("loss 0.5").endswith(", ETA 30 s, loss 0.5")

    def test_what_was_done_before_does_not_count_for_the_rate(self, clock):
        stage = self.stage()
        clock.now += 100
        stage.resume(500, 1000)
        clock.now += 10
        stage.update(600)
        assert stage.text() == "  embed images:  60% 600/1,000 images, 10/s, ETA 40 s"

    def test_advance_adds_up(self, clock):
        stage = self.stage()
        stage.advance(3)
        stage.advance(4)
        assert stage.done == 7

    def test_before_anything_is_done_the_eta_is_unknown(self, clock):
        assert self.stage().text() == "  embed images:   0% 0/1,000 images, 0/s, ETA unknown"

    def test_a_total_that_is_not_known_is_no_error(self, clock):
        stage = self.stage(total=0)
        clock.now += 1
        stage.update(5)
        assert "5/0 images" in stage.text()

    def test_more_than_expected_fills_the_bar_and_no_more(self, clock):
        stage = self.stage(Terminal(), total=10)
        clock.now += 1
        stage.update(20)
        assert stage.text().count("█") == 24
        assert "ETA 0 s" in stage.text()

    def test_a_log_gets_a_line_every_ten_seconds(self, clock):
        stream = io.StringIO()
        stage = self.stage(stream)
        for second in range(25):
            clock.now = 1000 + second
            stage.update(second)
        assert [line.split()[3] for line in stream.getvalue().splitlines()] == ["10/1,000", "20/1,000"]

    def test_a_terminal_gets_a_bar_several_times_a_second(self, clock):
        stream = Terminal()
        stage = self.stage(stream)
        for eighth in range(9):
            clock.now = 1000 + eighth / 8
            stage.update(eighth)
        assert "\n" not in stream.getvalue()
        assert stream.getvalue().count("embed images") == 4  # every second update comes after more than a fifth

    def test_the_total_may_become_known_later(self, clock):
        stage = self.stage(total=0)
        clock.now += 10
        stage.update(50, 200)
        assert "25% 50/200" in stage.text()
