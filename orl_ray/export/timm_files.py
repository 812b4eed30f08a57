"""A backbone for timm: the folder that its ``local-dir:`` names, and that its part of the Hugging Face hub holds."""

import json

from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.export.model_card import preprocessing
from orl_ray.export.tensor_files import safetensors_bytes
from orl_ray.export.trained import Trained

LIBRARY = "timm"


def timm_files(trained: Trained) -> dict[str, bytes]:
    """Return the state dict, which timm names as torchvision does, and the configuration that goes with it."""
    resize, crop = preprocessing(trained)
    configuration = {
        "architecture": trained.architecture,
        "num_classes": 0,
        "num_features": trained.backbone.features,
        "global_pool": "avg",
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, crop, crop],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": crop / resize,
            "crop_mode": "center",
            "mean": MEAN,
            "std": STD,
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
    return {
        "model.safetensors": safetensors_bytes(trained.backbone.state_dict()),
        "config.json": json.dumps(configuration, indent=1).encode(),
    }


def timm_usage(_trained: Trained) -> str:
    """Return Python that loads the files; timm fails where a key is missing or left over."""
    return """
import timm

model = timm.create_model("local-dir:.", pretrained=True, num_classes=0).eval()
features = model(images)
maps = timm.create_model("local-dir:.", pretrained=True, features_only=True).eval()(images)  # of five stages
"""
