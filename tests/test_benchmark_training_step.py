"""The benchmark of the training step counts what it says, on small pictures; its speeds are not judged here."""

import json

import pytest

from benchmarks import training_step


@pytest.fixture
def run(monkeypatch, capsys):
    def run_with(*arguments):
        small = ("image_level.batch_size=8", "image_level.view_size=32", "encoder.hidden=16", "encoder.output=8")
        monkeypatch.setattr(training_step, "IMAGES", 8)
        monkeypatch.setattr("sys.argv", ["training_step", "--stage", "image_level", "--blocks", "1", "--steps", "1"])
        monkeypatch.setattr("sys.argv", [*training_step.sys.argv, *arguments, *small])
        code = training_step.main()
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run_with


def test_operations_are_those_of_a_convolution_network_and_shares_follow_from_the_times(run):
    code, result = run("--peak-tflops", "2", "--least-speedup", "0", "--most-wait", "1")
    assert code == 0
    # ResNet-18 at 32 px: 37 million products forward, of target and online, twice that backward, two views.
    assert result["gflop_a_sample"] == pytest.approx(2 * 2 * 4 * 0.037, rel=0.1)
    seconds = result["batch_size"] / result["samples_per_second"]
    assert result["mfu"] == pytest.approx(result["gflop_a_sample"] * 8 / 1e3 / seconds / 2, rel=0.01, abs=1e-4)
    assert 0 <= result["data_wait"] <= 1
    assert result["share_of_bare"] > 0


def test_a_speed_below_the_limit_is_a_failure(run):
    code, _ = run("--least-speedup", "1000")
    assert code == 1
