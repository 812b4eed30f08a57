"""Presets: settings that go together, by name. What a preset does not name stays at its default."""

Preset = dict[str, bool | int | float | str]


def _both(**settings: bool | float | str) -> Preset:
    """Set the same for both pre-trainings."""
    return {f"{stage}.{name}": value for stage in ("image_level", "object_level") for name, value in settings.items()}


# The published runs to the last constant, but for their bugs (docs/decisions/0017).
_COCO: Preset = {**_both(last_batch="short", cosine="epoch"), "mining.skip_near_duplicates": False}
# Ours: batches are full, the cosine changes each step, and near-duplicates are no neighbours: the defaults.
_COCO_FIXED: Preset = _both(exempt_norms_and_biases=True)

# The published baselines (specification 1.6), as image-level pre-training.
_COCO_MOCO: Preset = {
    **_COCO,
    "encoder.hidden": 2048,
    "encoder.output": 128,
    "image_level.method": "moco",
    "image_level.batch_size": 256,
    "image_level.last_batch": "dropped",
    "image_level.smallest_crop": 0.2,
    "image_level.augmentation": "moco",
    "image_level.learning_rate": 0.3,
    "image_level.warmup_epochs": 0.0,
    "image_level.ema_base": 0.999**2,  # of a batch of 512: 0.999 for 256
    "image_level.ema_final": 0.999**2,
}
_COCO_SIMCLR: Preset = {
    **_COCO,
    "encoder.hidden": 2048,
    "encoder.output": 128,
    "image_level.method": "simclr",
    "image_level.augmentation": "simclr",
    "image_level.optimizer": "lars",
    "image_level.learning_rate": 0.3,  # of a batch of 256: 0.6 for 512
    "image_level.weight_decay": 1e-6,
    "image_level.exempt_norms_and_biases": True,
    "image_level.warmup_epochs": 10.0,
    "image_level.merge_views": True,
    "image_level.temperature": 0.1,
}

_LAPTOP: Preset = {
    "source.part_size": 32,
    "encoder.backbone": "resnet18",
    "encoder.hidden": 512,
    "encoder.output": 128,
    **_both(epochs=10, batch_size=64, view_size=64, learning_rate=0.4, warmup_epochs=1, ema_horizon=0.1),
    "proposals.max_side": 640,
    "rois.min_share": 0.2,
    "embeddings.image_resize": 72,
    "embeddings.image_crop": 64,
    "embeddings.roi_size": 64,
    "embeddings.batch_size": 64,
    "object_level.patch_size": 32,
}

PRESETS: dict[str, Preset] = {
    "coco": _COCO,
    "coco_fixed": _COCO_FIXED,
    "coco_moco": _COCO_MOCO,
    "coco_simclr": _COCO_SIMCLR,
    "laptop": _LAPTOP,
}
