"""A backbone for detectron2's ResNets, such as those below its Mask R-CNN with FPN (specification 5.4)."""

from orl_ray.encoders.naming import detectron2_name
from orl_ray.export.tensor_files import torch_bytes
from orl_ray.export.trained import Trained

LIBRARY = "detectron2"


def detectron2_files(trained: Trained) -> dict[str, bytes]:
    """Return a checkpoint that ``DetectionCheckpointer`` reads.

    Names lack the part in front, ``backbone.bottom_up.`` with FPN and ``backbone.`` without: ``matching_heuristics``
    has detectron2 find them by their ends, as in its own converted files. Not a pickle of NumPy arrays, as those are,
    but tensors, which load with ``weights_only``.
    """
    state = {detectron2_name(name): tensor for name, tensor in trained.backbone.state_dict().items()}
    return {"backbone.pth": torch_bytes({"model": state, "__author__": "orl_ray", "matching_heuristics": True})}


def detectron2_usage(trained: Trained) -> str:
    """Return Python that loads the file; detectron2 logs what it does not find, so look at its log."""
    depth = trained.architecture.removeprefix("resnet")
    narrow = "\ncfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64" if depth == "18" else ""
    return f"""
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
cfg.MODEL.RESNETS.DEPTH = {depth}{narrow}
cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
cfg.MODEL.RESNETS.NORM = "SyncBN"
cfg.MODEL.BACKBONE.FREEZE_AT = 0
cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
cfg.INPUT.FORMAT = "RGB"
model = build_model(cfg)
DetectionCheckpointer(model).load("backbone.pth")
"""
