"""The proof's training: which arm reads labels, what is trained once, what goes on where it was cut off, its cost."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.proof import training
from benchmarks.proof.arms import ARMS
from benchmarks.proof.flops import byol_flops, embedding_flops, orl_flops, supervised_flops
from benchmarks.proof.training import measurements, train_arm, trained_weights
from orl_ray.encoders.backbones import build_backbone
from orl_ray.encoders.heads import mlp_head
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter
from orl_ray.settings import load

ARM = {arm.name: arm for arm in ARMS}
TINY = [
    "encoder.hidden=8",
    "encoder.output=4",
    "embeddings.image_crop=16",
    *(
        f"{stage}.{value}"
        for stage in ("image_level", "object_level")
        for value in ("epochs=3", "batch_size=8", "view_size=16")
    ),
    "object_level.patch_size=16",
]
CONFIG = load("laptop", None, TINY)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep to one thread, as the benchmark does: several wait for each other where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def training_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proof") / "set"
    rng, box = np.random.default_rng(0), np.array([[2, 2, 16, 16]], np.int32)
    with TrainingSetWriter(folder, 10_000) as writer:
        for image in range(16):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(file, "png")
            writer.add(image, file.getvalue(), box, [((image + 1) % 16, box, box)])
    return TrainingSet.open(folder)


def labels():
    return torch.eye(16)[:, :3]


def no_labels():
    raise AssertionError("annotations were read")


def run(name, training_set, folder, read_labels=no_labels):
    arm = ARM[name]
    own = CONFIG.object_level if arm.method == "orl" else CONFIG.image_level
    train_arm(arm, own, CONFIG, training_set, folder, read_labels)
    return trained_weights(folder)


@pytest.fixture
def trainings(monkeypatch):
    """Let every training give first weights at once; list what was trained."""
    made = []

    def stand_in(settings, *_):
        made.append(type(settings).__name__)
        return {"online.backbone.weight": torch.zeros(1), "optimizer.weight": torch.zeros(1)}

    for function in ("train", "train_supervised", "fresh_weights"):
        monkeypatch.setattr(training, function, stand_in)
    return made


@pytest.mark.parametrize("name", [arm.name for arm in ARMS if arm.method != "supervised"])
def test_no_arm_but_the_supervised_one_reads_labels_as_it_trains(name, training_set, tmp_path, trainings):
    run(name, training_set, tmp_path, no_labels)
    assert len(trainings) == 1


@pytest.mark.parametrize("name", [arm.name for arm in ARMS])
def test_a_finished_arm_is_not_trained_again(name, training_set, tmp_path, trainings):
    for _ in range(2):
        assert run(name, training_set, tmp_path, labels).keys() == {"online.backbone.weight"}
    assert len(trainings) == 1
    (tmp_path / training.RECORD).unlink()  # weights alone may be half of what is to be written
    run(name, training_set, tmp_path, labels)
    assert len(trainings) == 2


def test_the_supervised_arm_learns_from_labels(training_set, tmp_path):
    with pytest.raises(AssertionError, match="annotations were read"):
        run("supervised", training_set, tmp_path / "none")
    first = run("supervised", training_set, tmp_path / "first", labels)
    other = run("supervised", training_set, tmp_path / "other", lambda: 1 - labels())
    assert any((first[name] != other[name]).any() for name in first)
    assert {name.rpartition("backbone.")[0] for name in first} == {"online."}


def test_the_arms_that_say_that_they_read_labels_are_two():
    assert {arm.name for arm in ARMS if arm.reads_labels} == {"orl_oracle_pairs", "supervised"}
    assert len(ARM) == len(ARMS)


@pytest.mark.parametrize("name", ["orl", "supervised"])
def test_an_arm_that_was_cut_off_goes_on_to_the_same_weights(name, training_set, tmp_path, monkeypatch):
    unbroken = run(name, training_set, tmp_path / "unbroken", labels)
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0)
    steps = []

    def cut_at(limit):
        def progress(_name):
            def tell(step, _total, _entry):
                steps.append(step)
                if step == limit:
                    raise KeyboardInterrupt

            return tell

        return progress

    monkeypatch.setattr(training, "_progress", cut_at(4))
    with pytest.raises(KeyboardInterrupt):
        run(name, training_set, tmp_path / "cut", labels)
    assert not (tmp_path / "cut" / training.RECORD).exists()
    assert (tmp_path / "cut" / "checkpoints").exists()
    monkeypatch.setattr(training, "_progress", cut_at(-1))
    resumed = run(name, training_set, tmp_path / "cut", labels)
    assert steps[:4] == [1, 2, 3, 4]
    assert steps[4:] in ([4, 5, 6], [5, 6])  # a checkpoint before or after the step that was cut off
    assert not (tmp_path / "cut" / "checkpoints").exists()
    assert unbroken.keys() == resumed.keys()
    assert all((unbroken[key] == resumed[key]).all() for key in unbroken)
    assert [entry["step"] for entry in measurements(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def layers(module, side):
    """Return the FLOPs of one sample's forward pass, a layer an entry, by the layers' own sizes."""
    found = []

    def count(layer, inputs, output):
        fan_in = layer.weight[0].numel()
        found.append(2 * fan_in * output[0].numel())

    handles = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    ]
    module.eval()
    with torch.no_grad():
        module(torch.zeros(1, 3, side, side) if isinstance(side, int) else torch.zeros(1, *side))
    for handle in handles:
        handle.remove()
    return found


def hand_counted(view, terms):
    """FLOPs of ``terms`` losses on views of one side: the first convolution needs no gradient of its input."""
    backbone = build_backbone("resnet18")
    whole = layers(backbone, view)
    projector = sum(layers(mlp_head(512, 8, 4), (512,)))
    predictor = sum(layers(mlp_head(4, 8, 4), (4,)))
    online = 3 * (sum(whole) + projector + predictor) - whole[0]
    return terms * 2 * (online + sum(whole) + projector)


def test_flops_are_those_of_convolutions_and_matrix_products():
    assert byol_flops(CONFIG.encoder, CONFIG.image_level) == hand_counted(16, 1)
    assert byol_flops(CONFIG.encoder, CONFIG.object_level) == hand_counted(16, 3)
    whole = layers(build_backbone("resnet18"), 16)
    classifier = 2 * 512 * 5
    assert supervised_flops(CONFIG.encoder, CONFIG.image_level, 5) == 2 * (3 * (sum(whole) + classifier) - whole[0])


def test_orl_costs_both_trainings_and_every_embedding():
    cost = orl_flops(CONFIG, images=8, rois=20)
    assert cost["stage_1"] == 8 * 3 * hand_counted(16, 1)
    assert cost["stage_3"] == 8 * 3 * hand_counted(16, 3)
    image = sum(layers(build_backbone("resnet18"), 16)) + sum(layers(mlp_head(512, 8, 4), (512,)))
    roi = sum(layers(build_backbone("resnet18"), 64))
    assert cost["embedding"] == embedding_flops(CONFIG, 8, 20) == 8 * image + 20 * roi
