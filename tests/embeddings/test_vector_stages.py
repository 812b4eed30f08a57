"""Vectors to be taken elsewhere: equal to torchvision's network on Pillow's crops, a row an image or a box."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image
from small_store import image_files
from torchvision.transforms import functional

from orl_ray.columns import vectors_of
from orl_ray.embeddings.given_boxes import write_given_boxes
from orl_ray.embeddings.stages import prepare_roi_encoder
from orl_ray.embeddings.vector_stages import GIVEN_BOXES, VECTORS, embed_part, vector_stages
from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.encoders.weight_files import encoder_from
from orl_ray.graph import main_job
from orl_ray.housekeeping.commands import delete_command
from orl_ray.interchange.encoder import store_encoder
from orl_ray.part_runner import PartWorker, WorkerContext
from orl_ray.pins import resolve_pins
from orl_ray.pipeline import State, plan


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torchvision.models.resnet18().eval()


@pytest.fixture
def small(finished, network, tmp_path):
    """Return a store with the network as its encoder, and the config that is frozen to it."""
    copied = finished.copy(tmp_path / "copy")
    imported = store_encoder(copied.store, encoder_from(network.state_dict()), "resnet18.pth")
    config = replace(copied.config, freeze=f"encoder@{imported.content_hash('image_level')}")
    return replace(copied, config=config)


def make(small, boxes="", kind="float16"):
    """Make the vectors as a run does; return the plans, and one table of all parts."""
    needed = [s for s in main_job() if s.name in ("listing", "packed_scenes", "scenes", "image_level")]
    stages, pins = [*needed, *vector_stages(boxes, kind)], resolve_pins(small.config, small.store)

    def plans():
        return {p.stage.name: p for p in plan(small.config, stages, small.store, pins)}

    if boxes:
        key = plans()[GIVEN_BOXES].key
        write_given_boxes(small.store, boxes, small.plan("scenes").key, key)
    wanted = plans()[VECTORS]
    worker = PartWorker(
        VECTORS,
        lambda *arguments: embed_part(kind, *arguments),
        prepare_roi_encoder,
        WorkerContext(small.config, small.store, wanted.manifests),
    )
    for part in wanted.missing:
        worker({"index": part.index, "key": part.key, "inputs": json.dumps(part.inputs)})
    done = plans()[VECTORS]
    assert done.state is State.DONE
    return done, pa.concat_tables([small.store.read_table(VECTORS, record.key) for record in done.records])


def expected(network, crops):
    """Embed PIL images with torchvision's own network and transforms; return unit vectors."""
    batch = torch.stack([functional.normalize(functional.to_tensor(crop), MEAN, STD) for crop in crops])
    with torch.inference_mode():
        maps = batch
        for name, child in network.named_children():
            maps = maps if name == "fc" else child(maps)
        vectors = maps.flatten(1)
    return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize(("kind", "bound"), [("float16", 5e-4), ("float32", 1e-5)])
def test_whole_images_are_a_row_each_with_their_path(small, network, kind, bound):
    _, table = make(small, kind=kind)
    scenes = small.rows("scenes")
    assert table["image_id"].to_pylist() == [row["image_id"] for row in scenes]
    assert table["path"].to_pylist() == [row["path"] for row in scenes]
    assert table["box"].null_count == table["box_row"].null_count == len(table)
    assert table.schema.field("vector").type.value_type == pa.type_for_alias(kind)
    settings, crops = small.config.embeddings, []
    for row in scenes:
        image = functional.resize(Image.open(image_files(small) / row["path"]), settings.image_resize)
        crops.append(functional.center_crop(image, settings.image_crop))
    found = np.stack(table["vector"].to_pylist()).astype(np.float64)
    np.testing.assert_allclose(found, expected(network, crops), atol=bound)
    if kind == "float32":
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_boxes_are_a_row_each_and_name_their_row_in_the_file(small, network, tmp_path):
    scenes = small.rows("scenes")
    chosen = [scenes[row] for row in (2, 15, 2, 9)]
    boxes = [[3.0, 4.0, 30.0, 20.0], [0.0, 0.0, 40.0, 44.0], [10.0, 10.0, 12.0, 33.0], [5.0, 5.0, 20.0, 20.0]]
    ids = [row["image_id"] for row in chosen]
    pq.write_table(pa.table({"image_id": ids, "box": boxes}), tmp_path / "boxes.parquet")
    _, table = make(small, str(tmp_path / "boxes.parquet"), "float32")
    assert sorted(table["box_row"].to_pylist()) == [0, 1, 2, 3]
    side, crops, order = small.config.embeddings.roi_size, [], table["box_row"].to_pylist()
    for row, found in zip(order, table.to_pylist(), strict=True):
        assert (found["image_id"], found["path"], found["box"]) == (ids[row], chosen[row]["path"], boxes[row])
        x, y, width, height = map(int, boxes[row])
        image = Image.open(image_files(small) / chosen[row]["path"])
        crops.append(functional.resized_crop(image, y, x, height, width, [side, side]))
    np.testing.assert_allclose(np.stack(table["vector"].to_pylist()), expected(network, crops), atol=1e-5)


def test_equal_boxes_and_weights_give_the_same_parts_and_other_ones_do_not(small, network, tmp_path):
    first, table = make(small)
    again, _ = make(small)
    assert again.content_hash == first.content_hash
    assert vectors_of(table).dtype == np.float16
    assert make(small, kind="float32")[0].key != first.key
    sized = replace(small, config=replace(small.config, embeddings=replace(small.config.embeddings, image_crop=33)))
    assert make(sized)[0].key != first.key


def test_an_image_that_is_taken_down_leaves_the_vectors_and_boxes(small, tmp_path):
    scenes = small.rows("scenes")
    ids = [scenes[0]["image_id"], scenes[15]["image_id"]]
    pq.write_table(pa.table({"image_id": ids, "box": [[0, 0, 30, 30]] * 2}), tmp_path / "boxes.parquet")
    done, _ = make(small, str(tmp_path / "boxes.parquet"))
    assert delete_command([str(small.store.root), str(ids[0]), "--delete"]) == 0
    left = small.store.present(VECTORS)
    assert {record.key for record in done.records} - left == {done.records[0].key}
    assert not small.store.present(GIVEN_BOXES)
