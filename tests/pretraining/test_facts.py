"""Operations a sample against counts by hand, and what a training says of its batch norm."""

import pytest

from orl_ray import config
from orl_ray.pretraining.facts import describe, flops_per_sample, training_facts
from orl_ray.settings import load

ENCODER = config.Encoder("resnet18", hidden=512, output=128)
HEAD = 2 * (512 * 512 + 512 * 128)  # forward operations of a projector on ResNet-18
PREDICTOR = 2 * (128 * 512 + 512 * 128)


def resnet18(side):
    """Return the forward operations of the convolutions on one image, and of those the first one's."""
    total = first = 2 * 3 * 64 * 49 * (side // 2) ** 2
    channels, cells = 64, (side // 4) ** 2
    for stage, width in enumerate((64, 128, 256, 512)):
        if stage:
            cells //= 4
            total += 2 * channels * width * cells  # the shortcut
        total += 2 * 9 * cells * (channels * width + 3 * width * width)
        channels = width
    return total, first


def test_byol_is_counted_as_by_hand():
    flops = flops_per_sample(config.ImageLevel(view_size=64), ENCODER)
    forward, first = resnet18(64)
    assert flops.target == 2 * (forward + HEAD)
    assert flops.online == 2 * (3 * (forward + HEAD) - first)  # images need no gradient
    assert flops.predictors == 2 * 3 * PREDICTOR
    assert flops.loss == 0
    assert flops.total == flops.online + flops.target + flops.predictors


def test_terms_without_weight_are_not_counted():
    sizes = {"view_size": 64, "patch_size": 32}
    whole = flops_per_sample(config.ObjectLevel(**sizes), ENCODER)
    images = flops_per_sample(config.ObjectLevel(**sizes, intra_weight=0, inter_weight=0), ENCODER)
    assert images == flops_per_sample(config.ImageLevel(view_size=64), ENCODER)
    assert whole.target - images.target == 4 * (resnet18(32)[0] + HEAD)
    assert whole.predictors == 3 * images.predictors


def test_contrastive_methods_have_no_predictors_and_simclr_no_target():
    byol = flops_per_sample(config.ImageLevel(view_size=64), ENCODER)
    moco = flops_per_sample(config.ImageLevel(view_size=64, method="moco", queue=1000), ENCODER)
    simclr = flops_per_sample(config.ImageLevel(view_size=64, method="simclr", batch_size=32), ENCODER)
    assert (moco.online, moco.target, moco.predictors) == (byol.online / 2, byol.target / 2, 0)
    assert moco.loss == 2 * 2 * 1000 * 128
    assert (simclr.online, simclr.target, simclr.predictors) == (byol.online, 0, 0)
    assert simclr.loss == 2 * 3 * 2 * 64 * 128


def test_published_object_level_costs_1_37_times_the_image_level():
    coco = load("coco")
    ratio = (
        flops_per_sample(coco.object_level, coco.encoder).total / flops_per_sample(coco.image_level, coco.encoder).total
    )
    assert ratio == pytest.approx(1.367, abs=0.01)  # specification 3.5


@pytest.mark.parametrize(
    ("merge", "processes", "device", "wanted"),
    [
        (False, 1, "cpu", ("torch.nn.BatchNorm", "of each view by itself", {"32px": 64, "64px": 64})),
        (False, 2, "cpu", ("AllReduceBatchNorm", "of each view by itself", {"32px": 64, "64px": 64})),
        (True, 2, "cuda", ("torch.nn.SyncBatchNorm", "of all views of one size", {"32px": 256, "64px": 128})),
    ],
)
def test_batch_norm_is_told_with_the_batch_it_averages_over(merge, processes, device, wanted):
    settings = config.ObjectLevel(view_size=64, patch_size=32, batch_size=64, merge_views=merge)
    facts = training_facts(settings, ENCODER, processes, device)
    norm = facts["batch_norm"]
    assert (norm["kind"], norm["statistics"], norm["batch"]) == wanted
    flops, norms = describe(facts)
    assert "GFLOP a sample" in flops
    assert wanted[0] in norms
