"""``python -m orl_ray embed`` as a user runs it: on a folder of photographs, cut off half-way, with boxes by path."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from main_job_process import wait_until
from PIL import Image

from orl_ray.scenes.generated import render_scene

IMAGES = 24


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a folder of images, and a file of weights beside it."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "images" / "inner").mkdir(parents=True)
    for number in range(IMAGES):
        place = "inner/" if number % 2 else ""
        Image.fromarray(render_scene(5, "train", number, 96).image).save(folder / "images" / f"{place}{number:02d}.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.save(torchvision.models.resnet18().state_dict(), folder / "weights.pth")
    return folder


def embed(source, out, *flags):
    program = ("-m", "orl_ray", "embed", str(source / "weights.pth"), str(out), *flags)
    settings = ("source.kind=folder", f"source.images={source / 'images'}")
    return {"program": program}, settings


def test_a_killed_command_goes_on_and_makes_no_part_twice(job, source, tmp_path):
    store, out = tmp_path / "store", tmp_path / "out"
    options, settings = embed(source, out)
    process = job.start(store, *settings, "execution.data_workers=1", **options)
    parts = store / "vectors"
    wait_until(lambda: any(parts.glob("*.json")), process, "a part")
    job.kill_driver(process)
    assert not out.exists()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert 0 < len(before) < IMAGES // 4
    told = job.run(store, *settings, **options)
    assert f"{IMAGES} vectors in {IMAGES // 4} Parquet files" in told
    assert {path.name: path.stat().st_mtime_ns for path in parts.glob("*.json")}.items() >= before.items()
    table = pq.read_table(out, columns=["path", "box", "vector"])
    wanted = {str(path.relative_to(source / "images")) for path in (source / "images").rglob("*.png")}
    assert set(table["path"].to_pylist()) == wanted
    assert table["box"].null_count == IMAGES
    description = json.loads((out / "_vectors.json").read_text())
    assert (description["of"], description["files"], description["vectors"]) == ("images", IMAGES // 4, IMAGES)


def test_boxes_are_found_by_the_paths_of_their_images(job, source, tmp_path):
    rows = {"path": ["00.png", "inner/03.png", "inner/03.png", "gone.png"], "box": [[4.0, 4.0, 40.0, 30.0]] * 4}
    pq.write_table(pa.table(rows), tmp_path / "boxes.parquet")
    options, settings = embed(
        source, tmp_path / "out", "--boxes", str(tmp_path / "boxes.parquet"), "--numbers", "float32"
    )
    told = job.run(tmp_path / "store", *settings, **options)
    assert "1 boxes of images that the source lacks, left out" in told
    table = pq.read_table(tmp_path / "out").sort_by("box_row")
    assert table["path"].to_pylist() == rows["path"][:3]
    assert table.schema.field("vector").type.value_type == pa.float32()
    vectors = np.stack(table["vector"].to_pylist())
    np.testing.assert_array_equal(vectors[1], vectors[2])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
