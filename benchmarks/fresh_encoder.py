"""An untrained encoder in the place of image-level training: for benchmarks of what comes after it."""

from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orl_ray.config import Config
from orl_ray.embeddings.encoder import WEIGHTS
from orl_ray.encoders.backbones import build_backbone, initialise
from orl_ray.encoders.heads import mlp_head
from orl_ray.graph import main_job
from orl_ray.pipeline import list_parts, plan
from orl_ray.storage import Store


def fresh_weights(config: Config, images: Tensor | None = None) -> dict[str, Tensor]:
    """Return the encoder that image-level training starts from.

    Args:
        config: names the architecture and the seed.
        images: (n, 3, H, W) float, normalised, n >= 2: batch norm takes its statistics from them. Without them, an
            untrained network in evaluation mode gives nearly the same vector for everything.

    Returns:
        What a finished training leaves, as far as embedding reads it.
    """
    backbone = build_backbone(config.encoder.backbone)
    projector = mlp_head(backbone.features, config.encoder.hidden, config.encoder.output)
    modules: dict[str, nn.Module] = {"backbone": backbone, "projector": projector}
    for name, module in modules.items():
        initialise(module, config.seed, "image_level", name)
    if images is not None:
        _set_statistics(nn.Sequential(backbone, projector), images)
    return {
        f"online.{name}.{key}": tensor
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }


def write_in_place_of_training(config: Config, store: Store, weights: Mapping[str, Tensor]) -> None:
    """Write weights where image-level training would, in a store that holds all that training reads.

    Raises:
        ValueError: the store does not hold that, or it holds the training already.
    """
    plans = plan(config, main_job(), store)
    wanted = next(entry for entry in plans if entry.stage.name == "image_level")
    if len(wanted.missing) != 1:
        raise ValueError(f"image-level training cannot be stood in for: it is {wanted.state}, {wanted.reason}")
    list_parts(store, plans)
    files = {WEIGHTS: save(dict(weights))}
    store.write_manifest("image_level", wanted.key, [store.write_part("image_level", wanted.key, 0, files, rows=0)])


def _set_statistics(network: nn.Sequential, images: Tensor) -> None:
    """Let batch norm take its statistics from one batch, layer after layer, as in training."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.momentum = None  # a plain average, of one batch
    network.train()
    with torch.no_grad():
        network(images)
    network.eval()
