"""Weights from elsewhere: files of torchvision, timm, transformers, detectron2, of ORL's authors, and our own.

A file says by the name of its first convolution whose it is. What of it is no backbone, such as classifiers,
predictors and target networks, is left out; of the backbone itself every tensor must be there, and no other.
"""

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from orl_ray.encoders.backbones import Backbone, build_backbone
from orl_ray.encoders.heads import mlp_head
from orl_ray.encoders.naming import detectron2_name, huggingface_name, torchvision_name
from orl_ray.encoders.weights import load_backbone
from orl_ray.folders import Folder, file_at

_FIRST = "conv1.weight"
_COUNTER = "num_batches_tracked"
# Where tensors lie in files of torch.save: mmcv's, detectron2's.
_WRAPPERS = ("state_dict", "model")


class _Layout(NamedTuple):
    """How one library names what it saves.

    Attributes:
        name: the library.
        prefix: what the names of the backbone's tensors begin with.
        rename: from torchvision's name of a tensor to the library's.
        classifier: what begins with this is a classifier.
        projector: our prefix of a layer of the projector -> the file's.
        alias: the backbone lies in the file a second time, under this prefix.
    """

    name: str
    prefix: str
    rename: Callable[[str], str]
    classifier: str = ""
    projector: Mapping[str, str] = {}
    alias: str = ""


_LAYOUTS = (
    _Layout("orl_ray", "online.backbone.", torchvision_name, projector={"": "online.projector."}),
    # ORL's authors (specification 1.1); the projector is their NonLinearNeckSimCLR.
    _Layout(
        "reference",
        "backbone.",
        torchvision_name,
        projector={"0.": "neck.fc0.", "1.": "neck.bn0.", "3.": "neck.fc1."},
        alias="online_net.0.",
    ),
    _Layout("huggingface", "resnet.", huggingface_name),
    _Layout("huggingface", "", huggingface_name),
    _Layout("detectron2", "backbone.bottom_up.", detectron2_name),
    _Layout("detectron2", "", detectron2_name, classifier="stem.fc."),
    _Layout("torchvision", "", torchvision_name, classifier="fc."),
)


class OutsideEncoder(NamedTuple):
    """An encoder from a file.

    Attributes:
        layout: whose file it is: ``orl_ray``, ``reference``, ``huggingface``, ``detectron2``, or ``torchvision``, which
            is also timm's.
        architecture: ``resnet18`` or ``resnet50``.
        backbone: the backbone, float32, on the CPU.
        projector: tensors of the projector under the names that ``mlp_head`` has, empty where the file has none.
    """

    layout: str
    architecture: str
    backbone: Backbone
    projector: dict[str, Tensor]


def read_encoder(place: str) -> OutsideEncoder:
    """Read an encoder from a file of any known layout.

    Args:
        place: a ``.safetensors`` file, or one of ``torch.save`` that holds tensors and plain values alone (read with
            ``weights_only``); a path, s3:// or gs://.

    Raises:
        ValueError: there is no such file, it is none of these, its layout is not known, its tensors are not exactly
            those of a backbone, or a configuration of transformers beside it is of another network.
    """
    folder, name = file_at(place)
    try:
        encoder = encoder_from(read_tensors(folder, name))
        if encoder.layout == "huggingface":
            _check_configuration(folder)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return encoder


def read_tensors(folder: Folder, name: str) -> dict[str, Tensor]:
    """Read the tensors of a file by name.

    Args:
        folder: where it lies.
        name: its name; by its ending it is read as safetensors or as written by ``torch.save``.

    Raises:
        ValueError: there is no such file, or it does not hold tensors by name.
    """
    try:
        data = folder.read(name)
    except FileNotFoundError as error:
        raise ValueError("no such file") from error
    if name.endswith(".safetensors"):
        try:
            return safetensors.torch.load(data)
        except SafetensorError as error:
            raise ValueError(f"is no safetensors file: {error}") from error
    try:
        value: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no such file raise anything
        told = " ".join(str(error).split())[:200]
        raise ValueError(
            "is no file of torch.save, or holds more than tensors and plain values, which is never read: "
            f"{type(error).__name__}: {told}"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ValueError("does not hold tensors by name, neither at its top nor under state_dict or model")
    return dict(value)


def encoder_from(tensors: Mapping[str, Tensor]) -> OutsideEncoder:
    """Build the encoder that tensors of any known layout are of.

    Args:
        tensors: all tensors of a file, by its own names.

    Returns:
        The encoder. Where the file counts no batches of its batch norms, as older ones do, counts are 0: nothing reads
        them.

    Raises:
        ValueError: the layout is not known, or tensors are missing, unexpected or of another shape.
    """
    layout = next((entry for entry in _LAYOUTS if entry.prefix + entry.rename(_FIRST) in tensors), None)
    if layout is None:
        known = ", ".join(sorted({entry.prefix + entry.rename(_FIRST) for entry in _LAYOUTS}))
        raise ValueError(
            f"holds no backbone of a known layout: none of {known} is among its {len(tensors)} tensors, which begin "
            f"with {', '.join(sorted(tensors)[:3])}"
        )
    _check_alias(tensors, layout)
    own = {name.removeprefix(layout.prefix): tensor for name, tensor in tensors.items() if _is_of(name, layout)}
    architecture = "resnet50" if layout.rename("layer1.0.conv3.weight") in own else "resnet18"
    backbone = build_backbone(architecture)
    load_backbone(backbone, _renamed(own, layout, backbone))
    return OutsideEncoder(layout.name, architecture, backbone, _projector(tensors, layout, backbone.features))


def _is_of(name: str, layout: _Layout) -> bool:
    return name.startswith(layout.prefix) and not (layout.classifier and name.startswith(layout.classifier))


def _renamed(own: Mapping[str, Tensor], layout: _Layout, backbone: Backbone) -> dict[str, Tensor]:
    """Give tensors our names; those that are nobody's keep their own, and are told of when they are loaded."""
    ours = {layout.rename(name): name for name in backbone.state_dict()}
    renamed = {
        ours.get(name, name): tensor.float() if tensor.is_floating_point() else tensor for name, tensor in own.items()
    }
    if not any(name.endswith(_COUNTER) for name in renamed):
        renamed |= {name: torch.tensor(0) for name in backbone.state_dict() if name.endswith(_COUNTER)}
    return renamed


def _check_alias(tensors: Mapping[str, Tensor], layout: _Layout) -> None:
    """Check that what a file holds twice is the same."""
    if not layout.alias:
        return
    for name, tensor in tensors.items():
        if name.startswith(layout.alias):
            other = tensors.get(layout.prefix + name.removeprefix(layout.alias))
            if other is None or not torch.equal(tensor, other):
                raise ValueError(f"{layout.prefix}* and {layout.alias}* should be the same, but differ in {name}")


def _projector(tensors: Mapping[str, Tensor], layout: _Layout, features: int) -> dict[str, Tensor]:
    found = {
        ours + name.removeprefix(theirs): tensor.float() if tensor.is_floating_point() else tensor
        for ours, theirs in layout.projector.items()
        for name, tensor in tensors.items()
        if name.startswith(theirs)
    }
    if not found:
        return {}
    try:
        hidden, outputs = found["0.weight"].shape[0], found["3.weight"].shape[0]
        mlp_head(features, hidden, outputs).load_state_dict(found)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the weights do not fit a projector of two layers: {error}") from error
    return found


def _check_configuration(folder: Folder) -> None:
    """Refuse what a configuration of transformers beside the weights says is computed in another way than here."""
    try:
        configuration = json.loads(folder.read("config.json"))
    except FileNotFoundError:
        return
    wanted = {
        "model_type": "resnet",
        "hidden_act": "relu",
        "downsample_in_bottleneck": False,
        "downsample_in_first_stage": False,
    }
    for name, value in wanted.items():
        if configuration.get(name, value) != value:
            raise ValueError(f"config.json beside it has {name}={configuration[name]!r}; only {value!r} is known here")
