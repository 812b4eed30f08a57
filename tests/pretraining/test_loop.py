"""The training loop in one process: resuming, costs, records, and learning."""

import dataclasses
import math

import pytest
import torch

from orl_ray import config
from orl_ray.encoders.backbones import Backbone, build_backbone
from orl_ray.encoders.weights import load_backbone
from orl_ray.pretraining.checkpoints import Checkpoint
from orl_ray.pretraining.loop import Running, train
from orl_ray.pretraining.place import Place
from orl_ray.pretraining.training_set import TrainingSet
from orl_ray.pretraining.training_set_writer import TrainingSetWriter

ENCODER = config.Encoder("resnet18", hidden=12, output=8)
OBJECT = config.ObjectLevel(
    epochs=2, batch_size=4, view_size=32, patch_size=16, warmup_epochs=0.5, learning_rate=0.4, ema_horizon=0.5
)
IMAGE = config.ImageLevel(epochs=2, batch_size=4, view_size=32, warmup_epochs=0.5, learning_rate=0.4)


class Memory:
    """Checkpoints in memory."""

    def __init__(self, saved=()):
        self.saved = list(saved)

    def latest(self) -> Checkpoint | None:
        return self.saved[-1] if self.saved else None

    def save(self, checkpoint: Checkpoint) -> None:
        self.saved.append(checkpoint)


class Killed(Exception):
    pass


def run(training_set, settings=OBJECT, store=None, seconds=math.inf, on_step=lambda *_: None, threads=2, **options):
    stage = "object_level" if isinstance(settings, config.ObjectLevel) else "image_level"
    store = Memory() if store is None else store
    running = Running(checkpoint_seconds=seconds, loader_threads=threads, **options)
    return train(settings, ENCODER, stage, 0, training_set, store, Place(), on_step, running)


@pytest.fixture(scope="module")
def uninterrupted(object_folder):
    store = Memory()
    return run(TrainingSet.open(object_folder), store=store), store.saved[-1].history


def test_resumed_training_ends_with_the_very_weights_of_an_uninterrupted_one(object_set, uninterrupted):
    killed_after = 2  # the next batch holds the end of one lap and the start of another

    def kill(step, total, entry):
        if step == killed_after:
            raise Killed

    store = Memory()
    with pytest.raises(Killed):
        run(object_set, store=store, on_step=kill, checkpoint_epochs=0.4)  # every step
    assert store.latest().step == killed_after
    final = run(object_set, store=store, threads=1)
    wanted, history = uninterrupted
    assert final.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in final.items())
    repeated = store.latest().history
    assert [entry["loss"] for entry in repeated] == [entry["loss"] for entry in history]


def test_checkpoints_by_epoch_are_marked_as_kept_and_the_last_step_is_saved_anyway(object_set):
    store = Memory()
    run(object_set, IMAGE, store, checkpoint_epochs=0.8)  # two steps of five
    assert [(checkpoint.step, checkpoint.kept) for checkpoint in store.saved] == [(2, True), (4, True), (5, False)]
    assert [checkpoint.workers for checkpoint in store.saved] == 3 * [((0, 1),)]


def test_gradients_of_passes_add_up_to_those_of_the_batch(object_set, monkeypatch):
    """Without batch norm, whose statistics are those of a pass, passes change nothing but rounding."""
    monkeypatch.setattr(torch.nn.modules.batchnorm._BatchNorm, "forward", lambda self, images: images)
    whole, passes = Memory(), Memory()
    settings = dataclasses.replace(OBJECT, epochs=0.8, warmup_epochs=0.0, learning_rate=0.01)
    wanted = run(object_set, settings, whole)
    found = run(object_set, dataclasses.replace(settings, micro_batch=2), passes)
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for one, other in zip(whole.saved[-1].history, passes.saved[-1].history, strict=True):
        measured = ("loss", "loss_global", "loss_intra", "loss_inter", "feature_std")
        assert [one[name] for name in measured] == pytest.approx([other[name] for name in measured], rel=1e-4)


def test_batch_norm_takes_its_statistics_over_a_pass_and_the_target_moves_once_a_step(object_set):
    tensors = run(object_set, dataclasses.replace(IMAGE, epochs=0.8, micro_batch=2))
    passes, views = 2 * 2, 2
    assert tensors["online.backbone.bn1.num_batches_tracked"] == passes * views
    assert tensors["target.backbone.bn1.num_batches_tracked"] == passes * views


def test_finished_training_is_left_as_it_is(object_set, uninterrupted):
    wanted, history = uninterrupted
    store = Memory([Checkpoint(5, wanted, history)])
    final = run(object_set, store=store, on_step=lambda *_: pytest.fail("nothing is left to do"))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in final.items())


def test_tensors_have_the_names_of_a_checkpoint_and_load_into_a_backbone(uninterrupted):
    tensors, _ = uninterrupted
    groups = {".".join(name.split(".")[:2]) for name in tensors}
    predictors = {f"predictors.{term}" for term in ("global", "intra", "inter")}
    both = {f"{network}.{part}" for network in ("online", "target") for part in ("backbone", "projector")}
    momenta = {f"optimizer.{part}" for part in ("backbone", "projector", "predictors")}
    assert groups == predictors | both | momenta
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors.values())
    backbone = build_backbone("resnet18")
    load_backbone(backbone, tensors, prefix="online.backbone.")
    assert torch.equal(backbone.conv1.weight, tensors["online.backbone.conv1.weight"])


def test_history_records_every_step_of_a_short_run(uninterrupted):
    _, history = uninterrupted
    assert [entry["step"] for entry in history] == [1, 2, 3, 4, 5]
    assert [entry["epoch"] for entry in history] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    losses = {"loss", "loss_global", "loss_intra", "loss_inter"}
    features = {"feature_std", "alignment", "uniformity"}
    parts = {f"ms_{part}" for part in ("data", "augment", "forward", "backward", "optimise", "measure")}
    names = {"step", "epoch", "lr", "ema", "images_per_second", "data_wait"} | losses | features | parts
    for entry in history:
        # 8 dimensions want 32 vectors: 4 steps of two views of 4 images
        later = {2: {"ms_checkpoint"}, 4: {"effective_rank"}}
        expected = names.union({"workers"}, *(more for step, more in later.items() if entry["step"] >= step))
        assert set(entry) == expected
        assert sum(entry[part] for part in parts) <= 1000 * 4 / entry["images_per_second"] * (1 + 1e-9)
        assert entry["loss"] == pytest.approx(
            entry["loss_global"] + entry["loss_intra"] + entry["loss_inter"], rel=1e-5
        )
        assert 0 < entry["loss"] < 24
        assert 0 <= entry["data_wait"] <= 1
        assert entry["feature_std"] > 0.1
    assert history[0]["ema"] == pytest.approx(1 - 1 / 2.5)
    assert history[0]["lr"] < history[2]["lr"]


def test_on_step_sees_every_step_with_its_entry(object_set, uninterrupted):
    seen = []
    run(object_set, IMAGE, on_step=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(number, 5) for number in range(1, 6)]
    assert all(entry["step"] == step for step, _, entry in seen)


def test_term_weights_scale_their_losses(object_set):
    settings = dataclasses.replace(OBJECT, epochs=0.4, global_weight=0.5, intra_weight=2.0, inter_weight=0.25)
    store = Memory()
    run(object_set, settings, store)
    (entry,) = store.saved[-1].history
    wanted = 0.5 * entry["loss_global"] + 2 * entry["loss_intra"] + 0.25 * entry["loss_inter"]
    assert entry["loss"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "passes"),
    [({}, 12), ({"intra_weight": 0.0}, 8), ({"global_weight": 0.0, "inter_weight": 0.0}, 4)],
)
def test_term_without_weight_costs_no_forward_pass(object_set, monkeypatch, weights, passes):
    counted = []
    forward = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, images: counted.append(1) or forward(self, images))
    run(object_set, dataclasses.replace(OBJECT, epochs=0.4, **weights))
    assert len(counted) == passes


def test_image_level_training_has_one_predictor_and_needs_no_rois(tmp_path, object_set):
    with TrainingSetWriter(tmp_path / "set", 10_000) as writer:
        for position, image_id in enumerate(object_set.image_ids):
            writer.add(int(image_id), object_set.image_bytes(position))
    image_set = TrainingSet.open(tmp_path / "set")
    tensors = run(image_set, dataclasses.replace(IMAGE, epochs=0.4))
    assert {name.split(".")[1] for name in tensors if name.startswith("predictors.")} == {"global"}
    with pytest.raises(ValueError, match="no RoIs"):
        run(image_set)


def test_training_set_without_pairs_is_an_error_unless_the_inter_term_is_off(tmp_path, object_set):
    with TrainingSetWriter(tmp_path / "set", 10_000) as writer:
        for position, image_id in enumerate(object_set.image_ids):
            writer.add(int(image_id), object_set.image_bytes(position), object_set.rois(position))
    lonely = TrainingSet.open(tmp_path / "set")
    with pytest.raises(ValueError, match="no pairs"):
        run(lonely)
    run(lonely, dataclasses.replace(OBJECT, epochs=0.4, inter_weight=0.0))


def test_checkpoint_of_another_network_or_a_longer_run_is_an_error(object_set, uninterrupted):
    tensors, history = uninterrupted
    with pytest.raises(ValueError, match=r"unexpected predictors\.intra"):
        run(object_set, IMAGE, Memory([Checkpoint(2, tensors, history)]))
    partial = {name: tensor for name, tensor in tensors.items() if name != "online.projector.3.weight"}
    with pytest.raises(ValueError, match=r"missing online\.projector\.3\.weight"):
        run(object_set, store=Memory([Checkpoint(2, partial, history)]))
    bent = tensors | {"target.projector.3.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"target\.projector\.3\.weight has shape \(1,\)"):
        run(object_set, store=Memory([Checkpoint(2, bent, history)]))
    with pytest.raises(ValueError, match="6 steps, these settings only 5"):
        run(object_set, store=Memory([Checkpoint(6, tensors, history)]))


def test_diverged_training_stops_with_an_error_and_saves_nothing(object_set):
    store = Memory()
    with pytest.raises(FloatingPointError, match=r"not finite|is nan"):
        run(object_set, dataclasses.replace(IMAGE, learning_rate=1e38, warmup_epochs=0), store, seconds=0)
    for checkpoint in store.saved:
        assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())


def test_loss_falls_on_a_few_images(object_set):
    store = Memory()
    settings = config.ImageLevel(
        epochs=16, batch_size=8, view_size=32, learning_rate=3.0, warmup_epochs=1, ema_base=0.99, ema_horizon=0.2
    )
    run(object_set, settings, store)
    losses = [entry["loss"] for entry in store.saved[-1].history]
    assert sum(losses[-5:]) / 5 < 0.75 * sum(losses[:3]) / 3
