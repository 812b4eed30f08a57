"""The embedding benchmark counts what it says, on two small pictures; its speeds are not judged here."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import embedding


def pictures(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        blocks = rng.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(np.repeat(np.repeat(blocks, 16, 0), 16, 1)).save(folder / f"{number}.png")
    return folder


def test_every_roi_is_counted_once_and_every_picture_aligned_once(tmp_path, monkeypatch, capsys):
    arguments = ["embedding", "--images", str(pictures(tmp_path / "pictures")), "--block", "1", "--align"]
    arguments += ["--backbone", "resnet18", "--batch-size", "4", "embeddings.roi_size=32", "rois.min_share=0.2"]
    monkeypatch.setattr("sys.argv", arguments)
    assert embedding.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["images"], result["blocks"], result["align_forwards"]) == (2, 2, 2)
    assert result["rois"] == result["forwards"] > 2
    assert (result["rois"] + result["padding"]) % 4 == 0
    assert result["crops_differ"] == 0
    assert result["share_of_bare_forward"] > 0
    assert 0 <= result["align_pair_overlap"] <= 1
    assert result["align_cosine_mean"] <= 1.001


def test_a_folder_without_files_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["embedding", "--images", str(tmp_path)])
    with pytest.raises(SystemExit):
        embedding.main()
    assert "holds no files" in capsys.readouterr().err
