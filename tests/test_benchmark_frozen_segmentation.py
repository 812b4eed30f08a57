"""The benchmark of frozen segmentation on a few rendered scenes: its line, its baseline, its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_store import image_files

from benchmarks.frozen_segmentation import main
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.evaluation.segmentation_layouts import coco_masks

TINY = ["--set", "longer=64", "epochs=1", "batch=4", "stages=layer1,layer2", "rate=0.5", "--samples", "50"]


@pytest.fixture
def scenes(finished, tmp_path):
    """Return the arguments that name rendered scenes and a split of them."""
    images = image_files(finished)
    annotations = images.parent / "instances.json"
    names = [image["file_name"] for image in json.loads(annotations.read_text())["images"]]
    (tmp_path / "splits.json").write_text(json.dumps({"train": names[:6], "test": names[6:12]}))
    return ["--images", str(images), "--annotations", str(annotations), "--splits", str(tmp_path / "splits.json")]


def test_weights_are_scored_beside_untrained_ones_and_the_majority(scenes, tmp_path, capsys):
    backbone = build_backbone("resnet18")
    initialise(backbone, 9, "other")
    torch.save(backbone.state_dict(), tmp_path / "ours.pth")
    code = main([*scenes, *TINY, "--weights", str(tmp_path / "ours.pth")])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["arms"].keys() == {"untrained", "ours"}
    assert result["protocol"]["longer"] == 64
    assert (result["protocol"]["data"]["train"], result["protocol"]["data"]["test"]) == (6, 6)
    for arm in result["arms"].values():
        value, low, high = arm["miou"]
        assert low <= value + 0.1
        assert high >= value - 0.1
        assert 0 < arm["accuracy"] < 1
    gain = result["arms"]["ours"]["gain"][0]
    assert gain == pytest.approx(result["arms"]["ours"]["miou"][0] - result["arms"]["untrained"]["miou"][0])
    assert code == (0 if min(arm["miou"][0] for arm in result["arms"].values()) > result["majority"] else 1)
    assert result["majority"] == pytest.approx(majority_by_hand(scenes))


def majority_by_hand(scenes):
    """Say background everywhere: its IoU is its share, every other class that is there has 0."""
    images, annotations, splits = scenes[1::2]
    test = coco_masks(Path(images), Path(annotations), Path(splits), "test")
    pixels = np.concatenate([test.label_map(at).ravel() for at in range(len(test))])
    return (pixels == 0).mean() / len(set(pixels.tolist()) - {255})


def test_an_unknown_constant_is_named(scenes):
    with pytest.raises(SystemExit, match="no constant 'epoch'; they are longer"):
        main([*scenes, "--set", "epoch=1"])
