"""A backbone for torchvision: its ResNet's state dict without the classifier."""

from orl_ray.export.tensor_files import safetensors_bytes, torch_bytes
from orl_ray.export.trained import Trained

LIBRARY = "torchvision"


def torchvision_files(trained: Trained) -> dict[str, bytes]:
    """Return the state dict as safetensors, and as ``torch.save`` writes it for those who need that."""
    state = trained.backbone.state_dict()
    return {"backbone.safetensors": safetensors_bytes(state), "backbone.pth": torch_bytes(state)}


def torchvision_usage(trained: Trained) -> str:
    """Return Python that loads the files; it fails where a key is missing or left over."""
    return f"""
import torch
import torchvision
from safetensors.torch import load_file

model = torchvision.models.{trained.architecture}()
model.fc = torch.nn.Identity()
model.load_state_dict(load_file("backbone.safetensors"))
model.eval()
features = model(images)  # (n, {trained.backbone.features})
"""
