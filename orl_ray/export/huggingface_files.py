"""A backbone for Hugging Face's transformers: a folder that ``from_pretrained`` reads."""

import json
from typing import Any

from orl_ray.encoders.naming import huggingface_name
from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.export.model_card import preprocessing
from orl_ray.export.tensor_files import safetensors_bytes
from orl_ray.export.trained import Trained

LIBRARY = "transformers"
_BILINEAR = 2  # PIL's number


def huggingface_files(trained: Trained) -> dict[str, bytes]:
    """Return weights of ``ResNetModel``, its configuration, and that of its image processor."""
    state = {huggingface_name(name): tensor for name, tensor in trained.backbone.state_dict().items()}
    return {
        "model.safetensors": safetensors_bytes(state),
        "config.json": _json(_configuration(trained)),
        "preprocessor_config.json": _json(_processor(trained)),
    }


def huggingface_usage(_trained: Trained) -> str:
    """Return Python that loads the files."""
    return """
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained(".")
model = AutoModel.from_pretrained(".").eval()
images = processor(photographs, return_tensors="pt")["pixel_values"]
features = model(images).pooler_output.flatten(1)
"""


def _configuration(trained: Trained) -> dict[str, Any]:
    bottleneck = trained.architecture == "resnet50"
    widths = [trained.backbone.features >> shift for shift in (3, 2, 1, 0)]
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": widths,
        "depths": [len(list(trained.backbone.get_submodule(f"layer{stage}").children())) for stage in (1, 2, 3, 4)],
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "torch_dtype": "float32",
    }


def _processor(trained: Trained) -> dict[str, Any]:
    resize, crop = preprocessing(trained)
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": resize},
        "resample": _BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": crop, "width": crop},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
