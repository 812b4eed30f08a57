"""Tensors by name as bytes of files."""

import io
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor


def safetensors_bytes(state: Mapping[str, Tensor]) -> bytes:
    """Return tensors as safetensors. Its readers look in the metadata for the framework that they are of."""
    return safetensors.torch.save(dict(state), {"format": "pt"})


def torch_bytes(value: Mapping[str, object]) -> bytes:
    """Return what ``torch.save`` makes of tensors and plain values, readable with ``weights_only``."""
    sink = io.BytesIO()
    torch.save(dict(value), sink)
    return sink.getvalue()
