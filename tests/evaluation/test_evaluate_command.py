"""``python -m orl_ray evaluate`` on tiny copies of the published data sets, to the row."""

import json

import numpy as np
import published_layouts
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from orl_ray.__main__ import main
from orl_ray.embeddings.encoder import FrozenEncoder
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.evaluation import commands, recipes
from orl_ray.evaluation.frozen_features import frozen_features
from orl_ray.evaluation.frozen_protocols import read_coco
from orl_ray.storage import digest_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    backbone = build_backbone("resnet18")
    initialise(backbone, 1, "weights")
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(backbone.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    trainval = {f"{number:06d}": {"dog": 1 if number % 2 else 0} if number % 3 else {} for number in range(1, 16)}
    trainval = {name: {**labels, "cat": 1 if int(name) % 4 == 0 else -1} for name, labels in trainval.items()}
    test = {f"{number:06d}": {"dog": 1} if number % 2 else {"cat": 1} for number in range(20, 26)}
    return published_layouts.voc2007(tmp_path_factory.mktemp("voc"), {"trainval": trainval, "test": test})


def evaluate(tmp_path, *arguments):
    common = ("--backbone", "resnet18", "--out", str(tmp_path / "out"), "--threads", "1")
    assert main(["evaluate", *map(str, arguments), *common]) == 0
    (row,) = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    return row


def by_name(row):
    return {score["name"]: score for score in row["scores"]}


def test_svm_on_voc_leaves_a_row_with_every_constant(tmp_path, voc, weights):
    row = evaluate(tmp_path, "svm", "--data", voc, "--weights", weights, "--features", "pooled", "res5")
    assert row["weights"] == digest_file(weights)
    protocol = row["protocol"]
    assert len(protocol["costs"]) == 19
    assert protocol["data"]["left_out"] == [
        name for name in published_layouts.VOC_CLASSES if name not in ("cat", "dog")
    ]
    assert (protocol["data"]["train"]["images"], protocol["data"]["test"]["images"]) == (15, 6)
    scores = by_name(row)
    for feature in ("pooled", "res5"):
        classes = row["details"][f"{feature}, seed 0"]
        assert scores[f"map {feature}"]["mean"] == pytest.approx(
            np.mean([of_class["average_precision"] for of_class in classes.values()])
        )


def test_low_shot_on_voc_marks_the_published_way_as_optimistic(tmp_path, voc, weights):
    row = evaluate(
        tmp_path,
        "low-shot",
        "--data",
        voc,
        "--weights",
        weights,
        "--feature",
        "pooled",
        "--shots",
        1,
        2,
        "--seeds",
        0,
        1,
    )
    scores = by_name(row)
    assert set(scores) == {f"map {way}, {shots} shots" for way in ("ours", "published") for shots in (1, 2)}
    for shots in (1, 2):
        ours, published = scores[f"map ours, {shots} shots"], scores[f"map published, {shots} shots"]
        assert (ours["optimistic"], bool(published["optimistic"])) == ("", True)
        assert len(ours["by_seed"]) == 2
        assert published["mean"] >= ours["mean"]


@pytest.mark.real
def test_knn_on_coco_dev_equals_scikit_learn(tmp_path, scenes_root, weights):
    root = scenes_root / "coco_dev"
    whole = json.loads((root / "splits.json").read_text())
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": whole["train"][:30], "test": whole["test"][:15]}))
    places = (root / "images", root / "instances_dev.json", splits)
    row = evaluate(tmp_path, "knn", "--coco", *places, "--weights", weights, "--k", 7, "--temperature", 0.1)
    data = read_coco(*places)
    backbone = build_backbone("resnet18")
    initialise(backbone, 1, "weights")
    encoder = FrozenEncoder(backbone, None, torch.device("cpu"))
    train, test = (frozen_features(encoder, split.paths, ["pooled"], 1)["pooled"] for split in (data.train, data.test))
    neighbours = KNeighborsClassifier(
        7, algorithm="brute", metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.1)
    ).fit(train.astype(float), data.train.targets)
    shares = np.stack([classes[:, 1] for classes in neighbours.predict_proba(test.astype(float))], axis=1)
    found = row["details"]["classes"]
    for column, name in enumerate(data.test.classes):
        scores, truth = shares[:, column], data.test.targets[:, column]
        if len(set(np.round(scores, 9))) == len(scores):  # without ties, scikit-learn's is the area without envelope
            assert found[name] >= average_precision_score(truth, scores) - 1e-9
        assert found[name] == pytest.approx(envelope(truth, scores), abs=1e-6)
    assert by_name(row)["map pooled"]["mean"] == pytest.approx(np.mean(list(found.values())))


def envelope(truth, scores):
    """The area under the monotone curve, thresholds one by one."""
    points = []
    for threshold in sorted(set(np.round(scores, 9)), reverse=True):
        taken = np.round(scores, 9) >= threshold
        points.append((truth[taken].sum() / truth.sum(), truth[taken].mean()))
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return area


SMALL = ("epochs=1", "batch=3", "side=32")


@pytest.mark.parametrize("layout", ["imagenet", "places205", "inaturalist18"])
def test_linear_probes_run_on_every_layout_and_over_seeds(tmp_path, layout, weights):
    root = getattr(published_layouts, layout)(tmp_path / "data", train=2, val=1)
    last = list(recipes.LINEAR[layout])[-1]
    row = evaluate(
        tmp_path,
        *("linear", "--layout", layout, "--data", root, "--weights", weights, "--recipe", last),
        *("--seeds", 3, 4, "--set", *SMALL),
    )
    scores = by_name(row)
    assert set(scores) == {"top1 last", "top5 last", "best top1 last", "best top5 last"}
    assert scores["top5 last"]["by_seed"] == [1.0, 1.0]
    assert scores["top1 last"]["optimistic"] == ""
    assert scores["best top1 last"]["optimistic"]
    assert row["seeds"] == [3, 4]
    assert row["protocol"]["recipe"]["epochs"] == 1
    assert row["protocol"]["data"]["train"]["images"] == 6


def test_the_same_command_trains_nothing_again(tmp_path, weights, monkeypatch):
    root = published_layouts.imagenet(tmp_path / "data", train=2, val=1)
    arguments = ("linear", "--layout", "imagenet", "--data", root, "--weights", weights, "--recipe", "last-100")
    arguments = (*arguments, "--seeds", 0, "--set", *SMALL)
    first = evaluate(tmp_path, *arguments)
    monkeypatch.setattr("orl_ray.evaluation.classifier_job.train_classifier", lambda *_, **__: pytest.fail("again"))
    assert evaluate(tmp_path, *arguments) == first


def test_semi_supervised_gives_both_ways(tmp_path, weights, monkeypatch):
    root = published_layouts.imagenet(tmp_path / "data", train=4, val=1, flat=True)
    names = [path.name for path in sorted(root.glob("train/*/*.JPEG")) if not path.name.endswith("100.JPEG")]
    (tmp_path / "1percent.txt").write_text("\n".join(names))
    grid = recipes.semi_supervised
    monkeypatch.setattr(commands.recipes, "semi_supervised", lambda percent: grid(percent)[3:5])
    row = evaluate(
        tmp_path,
        *("semi", "--percent", 1, "--list", tmp_path / "1percent.txt", "--data", root, "--weights", weights),
        *("--seeds", 0, "--set", *SMALL),
    )
    assert row["protocol"]["data"]["labels"] == "list"
    assert row["protocol"]["data"]["train"]["images"] == 9
    chosen = row["details"]["grid, seed 0"]
    assert [point["head_rate"] for point in chosen["points"]] == [1.0, 10.0]
    scores = by_name(row)
    for way in ("ours", "published"):
        assert scores[f"top1 last, {way}"]["mean"] == chosen["points"][chosen[way]]["test"]["top1 last"]
    assert scores["top1 last, published"]["optimistic"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--recipe", "last-14"), "no recipe 'last-14' for imagenet"),
        (("--set", "epoch=3"), "cannot change a recipe by epoch=3"),
        (("--weights", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_mistakes_end_with_what_is_wrong(tmp_path, capsys, change, message):
    root = published_layouts.imagenet(tmp_path / "data", train=1, val=1)
    arguments = ["evaluate", "linear", "--layout", "imagenet", "--data", str(root), "--weights", "untrained"]
    assert main([*arguments, "--backbone", "resnet18", "--out", str(tmp_path / "out"), *change]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.json"))


def test_weights_of_another_backbone_are_refused(tmp_path, capsys, weights):
    root = published_layouts.imagenet(tmp_path / "data", train=1, val=1)
    arguments = ["evaluate", "linear", "--layout", "imagenet", "--data", str(root), "--weights", str(weights)]
    assert main([*arguments, "--backbone", "resnet50", "--out", str(tmp_path / "out")]) == 2
    assert "do not fit the backbone" in capsys.readouterr().err
