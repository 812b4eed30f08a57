"""The formats in which a backbone leaves: for each, the files, and the Python that loads them."""

from collections.abc import Callable
from typing import NamedTuple

from orl_ray.export import detectron2_files, huggingface_files, onnx_files, timm_files, torchvision_files
from orl_ray.export.model_card import CARD, model_card
from orl_ray.export.trained import Trained


class Format(NamedTuple):
    """One library's files.

    Attributes:
        library: its name on the Hugging Face hub.
        files: name -> bytes of what it reads.
        usage: Python that loads them in their folder; takes ``images`` (or, where it prepares them, ``photographs``).
    """

    library: str
    files: Callable[[Trained], dict[str, bytes]]
    usage: Callable[[Trained], str]


FORMATS = {
    "torchvision": Format(
        torchvision_files.LIBRARY, torchvision_files.torchvision_files, torchvision_files.torchvision_usage
    ),
    "timm": Format(timm_files.LIBRARY, timm_files.timm_files, timm_files.timm_usage),
    "detectron2": Format(
        detectron2_files.LIBRARY, detectron2_files.detectron2_files, detectron2_files.detectron2_usage
    ),
    "huggingface": Format(
        huggingface_files.LIBRARY, huggingface_files.huggingface_files, huggingface_files.huggingface_usage
    ),
    "onnx": Format(onnx_files.LIBRARY, onnx_files.onnx_files, onnx_files.onnx_usage),
}


def exported_files(trained: Trained, name: str) -> dict[str, bytes]:
    """Return all files of a format, the card among them.

    Args:
        trained: the backbone.
        name: of :data:`FORMATS`.

    Raises:
        ImportError: the format needs a package that is not installed.
    """
    chosen = FORMATS[name]
    card = model_card(trained, chosen.library, chosen.usage(trained))
    return {**chosen.files(trained), CARD: card.encode()}
