"""Rows: mean and spread over seeds, the protocol's hash, and files that are whole."""

import json

import pytest

from orl_ray.evaluation.protocol import protocol_hash
from orl_ray.evaluation.rows import Row, Score, over_seeds, write_row

PROTOCOL = {"name": "linear", "recipe": {"epochs": 28}}


def row(protocol=PROTOCOL):
    scores = over_seeds([{"top1": 0.5, "top5": 0.75}, {"top1": 0.25, "top5": 0.75}])
    return Row(protocol, "abc", (0, 1), scores, {}, {"device": "cpu"})


def test_scores_of_seeds_are_gathered_by_name_with_mean_and_spread():
    first, second = (score.to_json() for score in row().scores)
    assert first == {
        "name": "top1",
        "by_seed": [0.5, 0.25],
        "mean": 0.375,
        "std": pytest.approx(0.125 * 2**0.5),
        "optimistic": "",
    }
    assert (second["mean"], second["std"]) == (0.75, 0.0)


def test_a_single_seed_has_no_spread():
    assert Score("map", (0.5,)).to_json()["std"] is None


def test_a_row_is_named_by_its_protocol_and_any_constant_changes_the_name(tmp_path):
    path = write_row(tmp_path / "new", "linear", row())
    assert path.name == f"linear-{protocol_hash(PROTOCOL)}.json"
    written = json.loads(path.read_text())
    assert written["protocol"] == PROTOCOL
    assert written["protocol_hash"] == protocol_hash(PROTOCOL)
    assert (written["weights"], written["seeds"]) == ("abc", [0, 1])
    other = write_row(tmp_path / "new", "linear", row({**PROTOCOL, "recipe": {"epochs": 29}}))
    assert other != path
    assert write_row(tmp_path / "new", "linear", row()) == path
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, other.name])
