"""Linear probes on Ray Train, from the command line to the row."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import published_layouts
import pytest
import torch


@pytest.fixture
def environment():
    folder = Path(tempfile.mkdtemp(prefix="orl"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    yield {**kept, "RAY_TMPDIR": str(folder), "HOME": str(folder)}
    shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_train_linear_probes_and_the_row_says_what_one_process_says(tmp_path, environment):
    root = published_layouts.imagenet(tmp_path / "data", train=4, val=2)
    rows, weights = [], []
    for workers in (2, 0):
        out = tmp_path / f"out{workers}"
        command = [sys.executable, "-m", "orl_ray", "evaluate", "linear", "--layout", "imagenet", "--data", str(root)]
        command += ["--weights", "untrained", "--backbone", "resnet18", "--out", str(out), "--workers", str(workers)]
        command += [
            *("--recipe", "last-100", "--seeds", "0"),
            *("--set", "epochs=2", "batch=4", "side=32", "learning_rate=1"),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=False)
        assert done.returncode == 0, done.stderr
        (path,) = out.glob("*.json")
        rows.append(json.loads(path.read_text()))
        (last,) = out.glob("checkpoints/*/step-*6.pt")
        weights.append(torch.load(last, weights_only=True)["tensors"])
    assert rows[0]["protocol_hash"] == rows[1]["protocol_hash"]
    curves = [row["details"]["curve, seed 0"] for row in rows]
    assert [entry["epoch"] for entry in curves[0]] == [1, 2]
    assert curves[0] == curves[1]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, atol=1e-5, rtol=1e-4, msg=name)
