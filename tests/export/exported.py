"""A trained backbone whose every tensor differs from what libraries set it to, its files, and images to compare by."""

import contextlib

import numpy as np
import torch

from orl_ray.embeddings.vectors import colours
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.export.formats import exported_files
from orl_ray.export.trained import Trained
from orl_ray.scenes.decode import center_crop, decode, resize_shorter
from orl_ray.scenes.generated import render_scene
from orl_ray.storage import PartRecord

ARCHITECTURES = ("resnet18", "resnet50")


def trained_backbone(architecture):
    backbone = build_backbone(architecture)
    initialise(backbone, 3, "export")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(1234)
            elif tensor.ndim == 1:  # batch norms: weight, bias, mean, variance
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    record = PartRecord("object_level", "key", 0, 40, {}, "hash", facts={"images": 16, "history": []})
    return Trained("object_level", architecture, backbone.eval(), "c0ffee", record, None, None)


def write_export(trained, name, folder):
    folder.mkdir()
    for file, data in exported_files(trained, name).items():
        (folder / file).write_bytes(data)
    return folder


def photographs(scenes_root):
    return [decode(path.read_bytes(), 10**8) for path in sorted((scenes_root / "coco_dev" / "images").iterdir())[:16]]


def rendered():
    return [render_scene(1, "train", number, 144).image for number in range(16)]


def network_input(images):
    """Return (16, 3, 160, 128) float32, normalised: not square, so that height and width cannot be swapped."""
    square = np.stack([center_crop(resize_shorter(image, 160), 160) for image in images])
    return colours(torch.from_numpy(square[:, :, :128])).contiguous()


def features_of(trained, images):
    with torch.inference_mode():
        return trained.backbone(images)


def run_usage(code, folder, **names):
    """Run what a card says in the folder of its files; return the names that it leaves."""
    with contextlib.chdir(folder), torch.inference_mode():
        exec(code, names)  # noqa: S102 -- what people are told to run
    return names
