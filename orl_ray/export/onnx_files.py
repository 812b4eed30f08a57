"""A backbone as an ONNX graph, for any number of images of any size."""

import warnings

import torch
from torch import Tensor, nn

from orl_ray.encoders.backbones import Backbone
from orl_ray.export.trained import Trained

LIBRARY = "onnx"
# The oldest that torch's exporter writes without converting; runtimes since 2023 know it.
_OPSET = 18
# Larger than what the network shrinks to one cell, so that no side is taken for a constant.
_EXAMPLE_SIDE = 96


class _FeaturesAndMaps(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone.maps(images)
        return maps.mean((2, 3)), maps


def onnx_files(trained: Trained) -> dict[str, bytes]:
    """Return a graph from ``images`` (n, 3, H, W), normalised, to ``features`` (n, C) and ``maps`` (n, C, H/32, W/32).

    Raises:
        ImportError: onnx and onnxscript are not installed; the extra ``export`` brings them.
    """
    try:
        import onnxscript  # noqa: F401 -- torch's exporter needs it, and says less about it
    except ImportError as error:
        raise ImportError("ONNX needs more packages: pip install 'orl-ray[export]'") from error
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    example = torch.zeros(2, 3, _EXAMPLE_SIDE, _EXAMPLE_SIDE + 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own parts
        program = torch.onnx.export(
            _FeaturesAndMaps(trained.backbone).eval(),
            (example,),
            input_names=["images"],
            output_names=["features", "maps"],
            dynamic_shapes={"images": dynamic},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported no ONNX program")
    graph: bytes = program.model_proto.SerializeToString()
    return {"backbone.onnx": graph}


def onnx_usage(trained: Trained) -> str:
    """Return Python that runs the graph."""
    return f"""
import onnxruntime

session = onnxruntime.InferenceSession("backbone.onnx", providers=["CPUExecutionProvider"])
features, maps = session.run(None, {{"images": images}})  # NumPy, float32; features: (n, {trained.backbone.features})
"""
