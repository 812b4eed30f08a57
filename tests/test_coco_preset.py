"""The preset ``coco`` is the published runs to the last constant (specification 1 to 3), its siblings what they say.

Constants that are settings are compared as settings; those in code, as what the code does with them.
"""

import dataclasses

import pytest
from torch import nn

from orl_ray.config import flatten
from orl_ray.encoders.heads import PROJECTORS
from orl_ray.presets import PRESETS
from orl_ray.pretraining import augmentation, crops
from orl_ray.pretraining.objectives import term_weights
from orl_ray.pretraining.sampling import SampleStream
from orl_ray.pretraining.schedules import Schedule
from orl_ray.settings import default, known_settings, load

COCO, COCO_PLUS = 118_287, 241_690
STAGES = ("image_level", "object_level")

# Specification: section, setting, published value. "*" stands for both trainings.
PUBLISHED = [
    ("1.1", "encoder.backbone", "resnet50"),
    ("1.1", "encoder.hidden", 4096),
    ("1.1", "encoder.output", 256),
    ("1.1", "*.init_from", ""),
    ("1.2", "*.merge_views", False),
    ("1.2", "image_level.method", "byol"),
    ("1.3", "*.ema_base", 0.99),
    ("1.3", "*.ema_final", 1.0),
    ("1.3", "*.ema_horizon", 0),
    ("1.4", "*.optimizer", "sgd"),
    ("1.4", "*.learning_rate", 0.2),
    ("1.4", "*.momentum", 0.9),
    ("1.4", "*.weight_decay", 1e-4),
    ("1.4", "*.exempt_norms_and_biases", False),
    ("1.4", "*.batch_size", 512),
    ("1.4", "*.micro_batch", 0),
    ("1.4", "*.epochs", 800),
    ("1.4", "*.warmup_epochs", 4),
    ("1.4", "*.cosine", "epoch"),
    ("1.4", "*.last_batch", "short"),
    ("1.5", "*.augmentation", "byol"),
    ("1.5", "*.view_size", 224),
    ("1.5", "*.smallest_crop", 0.08),
    ("1.5", "*.decode_margin", 0),
    ("1.5", "*.decode_on_gpu", False),
    ("1.4", "*.shuffle_window", 0),
    ("2a", "embeddings.image_resize", 256),
    ("2a", "embeddings.image_crop", 224),
    ("2a", "mining.image_feature", "projector"),
    ("2a", "mining.index", "flat"),
    ("2a", "mining.k", 10),
    ("2a", "mining.skip_near_duplicates", False),
    ("2b", "proposals.mode", "fast"),
    ("2b", "proposals.max_side", 0),
    ("2b", "proposals.order", "opencv"),
    ("2c", "rois.min_size", 96),
    ("2c", "rois.min_share", 0),
    ("2c", "rois.max_aspect", 3),
    ("2c", "rois.max_iou", 0.5),
    ("2c", "rois.max_rois", 100),
    ("2d", "embeddings.roi_mode", "crop"),
    ("2d", "embeddings.roi_size", 224),
    ("2d", "mining.pair_ratio", 0.1),
    ("2d", "mining.pairing", "top"),
    ("2d", "mining.scope", "neighbors"),
    ("2d", "mining.min_similarity", -2),
    ("2d", "mining.max_similarity", 2),
    ("3.1", "object_level.patch_size", 96),
    ("3.4", "object_level.global_weight", 1),
    ("3.4", "object_level.intra_weight", 1),
    ("3.4", "object_level.inter_weight", 1),
]
# What the reference knows nothing of and no published constant rests on.
OURS = {"seed", "embeddings.batch_size", "mining.shards", "mining.k_max", "mining.ratio_max"}
SECTIONS_OF_OTHER_THINGS = ("source.", "generated.", "near_duplicates.", "evaluation.", "report.", "execution.")


def spelled_out(name):
    return [f"{stage}.{name[2:]}" for stage in STAGES] if name.startswith("*.") else [name]


@pytest.mark.parametrize(("section", "name", "value"), PUBLISHED, ids=[f"{row[0]} {row[1]}" for row in PUBLISHED])
def test_coco_has_the_published_value(section, name, value):
    values = flatten(load("coco"))
    assert {entry: values[entry] for entry in spelled_out(name)} == dict.fromkeys(spelled_out(name), value)


def test_the_table_names_every_setting_that_shapes_a_training_set_or_a_training():
    named = {entry for _, name, _ in PUBLISHED for entry in spelled_out(name)}
    effective = {
        name
        for name in known_settings()
        if not name.startswith(SECTIONS_OF_OTHER_THINGS)
        and not name.startswith("mining.global_")
        and name not in ("freeze", "rounds", "mining.index_effort", "embeddings.align_scale")
        and name not in ("image_level.temperature", "image_level.queue")
    }
    assert effective == named | OURS


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("images", "steps", "last"), [(COCO, 232, 15), (COCO_PLUS, 473, 26)])
def test_an_epoch_has_the_published_steps(stage, images, steps, last):
    settings = getattr(load("coco"), stage)
    stream = SampleStream(0, stage, images, settings.batch_size, settings.last_batch)
    schedule = Schedule.of(settings, stream)
    assert schedule.total == 800 * steps
    assert (schedule.cosine_steps, schedule.warmup, schedule.peak) == (steps, 4 * steps, 0.4)
    assert sum(len(part.positions) for part in stream.batch(steps - 1)) == last
    assert schedule.ema_momentum(0) == pytest.approx(0.99)
    assert schedule.learning_rate(0) == pytest.approx(0.4e-4)


def test_coco_takes_185_600_steps():
    settings = load("coco").object_level
    stream = SampleStream(0, "object_level", COCO, settings.batch_size, settings.last_batch)
    assert stream.total_steps(settings.epochs) == 185_600


def test_three_terms_of_weight_one():
    assert term_weights(load("coco").object_level) == {"global": 1.0, "intra": 1.0, "inter": 1.0}


@pytest.mark.parametrize(
    ("view", "operations"),
    [
        (0, {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2, "blur": 1.0, "solarise": 0.0}),
        (1, {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2, "blur": 0.1, "solarise": 0.2}),
    ],
)
def test_views_have_the_published_colours(view, operations):
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    pipeline = augmentation.PIPELINES[load("coco").object_level.augmentation][view]
    assert dataclasses.asdict(pipeline) == operations | jitter


def test_crops_and_jittered_boxes_have_the_published_ranges():
    assert crops.random_resized_crops.__defaults__ == ((0.08, 1.0), (3 / 4, 4 / 3))
    published = (200, (0.5, 2.0), (0.5, 2.0), 0.5, 0.5)  # specification 3.3
    names = ("ATTEMPTS", "SCALE", "ASPECT", "SHIFT", "IOU")
    assert tuple(getattr(crops, f"_JITTER_{name}") for name in names) == published


def layers(head):
    return [
        (type(layer).__name__, *((layer.in_features, layer.out_features, layer.bias is not None),))
        if isinstance(layer, nn.Linear)
        else type(layer).__name__
        for layer in head
    ]


@pytest.mark.parametrize(
    ("preset", "method", "wanted"),
    [
        ("coco", "byol", [("Linear", (2048, 4096, True)), "BatchNorm1d", "ReLU", ("Linear", (4096, 256, False))]),
        ("coco_moco", "moco", [("Linear", (2048, 2048, True)), "ReLU", ("Linear", (2048, 128, True))]),
        (
            "coco_simclr",
            "simclr",
            [
                ("Linear", (2048, 2048, False)),
                "BatchNorm1d",
                "ReLU",
                ("Linear", (2048, 128, False)),
                "BatchNorm1d",
            ],
        ),
    ],
)
def test_projectors_are_the_published_ones(preset, method, wanted):
    config = load(preset)
    assert config.image_level.method == method
    assert layers(PROJECTORS[method](2048, config.encoder.hidden, config.encoder.output)) == wanted


def test_the_fixed_preset_differs_from_the_published_one_where_it_says():
    published, fixed = flatten(load("coco")), flatten(load("coco_fixed"))
    assert {name: (published[name], fixed[name]) for name in published if published[name] != fixed[name]} == {
        "mining.skip_near_duplicates": (False, True),
        **{f"{stage}.cosine": ("epoch", "step") for stage in STAGES},
        **{f"{stage}.last_batch": ("short", "full") for stage in STAGES},
        **{f"{stage}.exempt_norms_and_biases": (False, True) for stage in STAGES},
    }


def test_moco_has_the_published_constants():
    settings = load("coco_moco").image_level
    stream = SampleStream(0, "image_level", COCO, settings.batch_size, settings.last_batch)
    schedule = Schedule.of(settings, stream)
    assert (settings.queue, settings.temperature, settings.augmentation) == (65_536, 0.2, "moco")
    assert (settings.optimizer, settings.momentum, settings.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (settings.smallest_crop, settings.batch_size, settings.epochs) == (0.2, 256, 800)
    assert (schedule.peak, schedule.warmup, schedule.total) == (0.3, 0, 800 * (COCO // 256))
    momenta = [schedule.ema_momentum(step) for step in (0, 1000, schedule.total)]
    assert momenta == pytest.approx([0.999] * 3)


def test_simclr_has_the_published_constants():
    settings = load("coco_simclr").image_level
    stream = SampleStream(0, "image_level", COCO, settings.batch_size, settings.last_batch)
    schedule = Schedule.of(settings, stream)
    assert (settings.temperature, settings.augmentation, settings.smallest_crop) == (0.1, "simclr", 0.08)
    assert (settings.optimizer, settings.momentum, settings.weight_decay) == ("lars", 0.9, 1e-6)
    assert settings.exempt_norms_and_biases
    assert settings.merge_views  # both views are one batch of 1,024 in the reference
    assert (settings.batch_size, schedule.peak, schedule.warmup) == (512, 0.6, 10 * 232)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("coco")])
def test_presets_of_coco_keep_discovery_and_object_level_as_published(preset):
    published, values = flatten(load("coco")), flatten(load(preset))
    allowed = ("image_level.", "encoder.", "object_level.", "mining.skip_near_duplicates")
    assert all(values[name] == published[name] for name in values if not name.startswith(allowed))
    known = known_settings()
    assert all(values[name] != default(known[name]) for name in PRESETS[preset])
