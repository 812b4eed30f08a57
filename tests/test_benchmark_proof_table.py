"""The proof's result: signs of differences, the tables, and the page in the docs, which shows the committed result."""

import json
from pathlib import Path

import pytest

from benchmarks.proof.arms import ARMS, BASELINE, EQUAL_FLOPS
from benchmarks.proof.comparison import Costs, summary
from benchmarks.proof.scoring import difference, score
from benchmarks.proof.table import render
from orl_ray.evaluation.protocol import METRICS
from orl_ray.evaluation.result import Difference, Result, Score
from orl_ray.settings import load
from tests.small_store import fresh_weights

ROOT = Path(__file__).parents[1]
NAMES = [arm.name for arm in ARMS]
CONFIG = load("laptop", None, [])
PAIRS = {"mined": {"pairs": 1234, "images": 40, "objects": 0.25, "same_class": 0.125}}


@pytest.fixture
def result():
    """Give arm number i an mAP of i tenths; the protocol holds each pair of arms in one order only."""
    rows = [
        Score(name, metric, i / 10, i / 10 - 0.05, i / 10 + 0.02, {})
        for metric in METRICS
        for i, name in enumerate(NAMES)
    ]
    order = sorted(NAMES)
    differences = [
        Difference(a, b, metric, value := (NAMES.index(a) - NAMES.index(b)) / 10, value - 0.03, value + 0.04)
        for metric in METRICS
        for i, a in enumerate(order)
        for b in order[i + 1 :]
    ]
    return Result(tuple(rows), tuple(differences), ("car",), {}, {"car": 9}, 50, 50, 0.3, {}, {}, "0123")


def summed(result):
    costs = Costs({"stage_1": 2e12, "embedding": 1e12, "stage_3": 3e12}, 2e11, 1.5e12, 30.0)
    return summary(CONFIG, result, PAIRS, costs, {name: [{"step": 9, "loss": 1.5}] for name in NAMES}, 77)


def test_a_difference_reads_the_same_whichever_way_round_it_is_held(result):
    assert difference(result, "byol", "orl", "knn_map") == pytest.approx((-0.2, -0.23, -0.16))
    assert difference(result, "orl", "byol", "knn_map") == pytest.approx((0.2, 0.16, 0.23))
    with pytest.raises(KeyError, match="no difference"):
        difference(result, "orl", "mocov3", "knn_map")


def test_every_arm_has_scores_costs_and_differences_to_both_baselines(result):
    rows = {row["arm"]: row for row in summed(result)["arms"]}
    assert list(rows) == NAMES
    assert rows["orl"]["knn_map"] == [0.3, 0.25, 0.32]
    assert rows["orl"][f"svm_map_minus_{BASELINE}"] == [0.2, 0.16, 0.23]
    assert rows["orl"][f"svm_map_minus_{EQUAL_FLOPS}"] == [0.1, 0.06, 0.13]
    assert f"svm_map_minus_{BASELINE}" not in rows[BASELINE]
    costs = {name: (row["gflops"], row["gflops_in_all"]) for name, row in rows.items()}
    assert costs["untrained"] == (0, 0)
    assert costs[BASELINE] == (2000, 2000)
    assert costs[EQUAL_FLOPS] == (6000, 6000) == (6000, costs["orl"][1])
    assert costs["orl_random_pairs"] == costs["orl_oracle_pairs"] == costs["orl"] == (3000, 6000)
    assert costs["supervised"] == (1500, 1500)


def test_tables_show_percent_with_intervals_and_signs(result):
    lines = render(summed(result)).splitlines()
    assert lines.count("") == 2
    assert f"| `orl` | {ARMS[3].meaning} | 3 | 6 | 30.0 (25.0 to 32.0) | 30.0 (25.0 to 32.0) |" in lines
    behind = "-10.0 (-14.0 to -7.0) | -10.0 (-14.0 to -7.0) | -20.0 (-24.0 to -17.0) | -20.0 (-24.0 to -17.0)"
    assert f"| `untrained` | {behind} |" in lines
    assert "| `byol` |  |  | -10.0 (-13.0 to -6.0) | -10.0 (-13.0 to -6.0) |" in lines
    assert lines[-1] == "| mined | 1,234 | 40 | 25.0 % | 12.5 % |"
    tables = "\n".join(lines).split("\n\n")
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)


def test_the_same_backbone_scores_the_same_and_scenes_are_of_the_validation_split(tmp_path):
    config = load(
        "laptop",
        None,
        [
            "generated.side=64",
            "embeddings.image_crop=16",
            "embeddings.batch_size=8",
            "evaluation.min_positives=2",
            "evaluation.validation_fraction=0.5",
            "evaluation.bootstrap=100",
            "evaluation.knn_k=5",
        ],
    )
    weights = fresh_weights(config, "image_level")
    result = score(config, {"one": weights, "two": weights}, tmp_path / "scenes", 40)
    assert result.fit_images + result.scored_images == 40
    assert difference(result, "one", "two", "knn_map") == (0, 0, 0)
    assert json.loads((tmp_path / "scenes" / "instances.json").read_bytes())["info"]["split"] == "validation"


def test_the_page_in_the_docs_shows_the_committed_result_and_no_other():
    committed = ROOT / "benchmarks" / "results" / "first_look.json"
    page = (ROOT / "docs" / "first-look.md").read_text(encoding="utf-8")
    if committed.exists():
        assert all(table in page for table in render(json.loads(committed.read_bytes())).split("\n\n"))
    else:
        assert "mAP, k-NN" not in page
        assert "still to be made" in page
