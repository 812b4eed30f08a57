"""A trained encoder from the store, ready to embed."""

import torch
from safetensors.torch import load
from torch import nn

from orl_ray.config import Config
from orl_ray.encoders.backbones import Backbone, build_backbone, initialise
from orl_ray.encoders.heads import load_projector
from orl_ray.encoders.weights import load_backbone
from orl_ray.storage import Store, StoreError

WEIGHTS = "model.safetensors"


def load_weights(store: Store, artifact: str, manifest: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a finished training.

    Args:
        store: the store.
        artifact: ``image_level`` or ``object_level``.
        manifest: key of the artifact's manifest.

    Raises:
        StoreError: the training is not in the store.
    """
    records = store.manifest(artifact, manifest)
    if not records:
        raise StoreError(f"{artifact} {manifest}: no such training; run the pipeline again to make it")
    return load(store.read_file(artifact, records[0].key, WEIGHTS))


class FrozenEncoder(nn.Module):
    """A network that embeds and no longer learns: a backbone, and a projector where there is one.

    Args:
        backbone: the backbone.
        projector: what follows it, or None.
        device: where to put both.
        precision: what convolutions and linear layers compute in; None takes bfloat16 on a GPU, float32 elsewhere.
            Weights, batch norm's statistics and results are float32 in any case.

    Attributes:
        backbone: the backbone.
        projector: what follows it, or None.
        features: width of the vectors.
        device: where the network lies.
        precision: what it computes in.
    """

    def __init__(
        self,
        backbone: Backbone,
        projector: nn.Sequential | None,
        device: torch.device,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        torch.set_num_threads(1)  # more threads would change bits with the machine; workers are the unit of parallelism
        self.backbone, self.projector = backbone, projector
        self.features = backbone.features if projector is None else _outputs(projector)
        self.device = device
        self.precision = precision or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.to(device).to(memory_format=torch.channels_last)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, H, W) normalised images to (n, features) float32."""
        with self._autocast():
            vectors: torch.Tensor = self.backbone(images)
            if self.projector is not None:
                vectors = self.projector(vectors)
        return vectors.float()

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, H, W) normalised images to the backbone's last feature maps, (n, C, H / 32, W / 32) float32."""
        with self._autocast():
            return self.backbone.maps(images).float()

    def environment(self) -> dict[str, str]:
        """Name what the bits depend on beside versions and device, for a part's record."""
        return {"precision": str(self.precision).removeprefix("torch.")}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16)


def frozen_backbone(config: Config, weights: dict[str, torch.Tensor] | None) -> FrozenEncoder:
    """Build the online backbone for embedding.

    Args:
        config: names the backbone and the device.
        weights: a finished training's tensors; None gives the untrained backbone that image-level training starts from.
    """
    backbone = build_backbone(config.encoder.backbone)
    if weights is None:
        initialise(backbone, config.seed, "image_level", "backbone")
    else:
        load_backbone(backbone, weights, prefix="online.backbone.")
    return FrozenEncoder(backbone, None, _device(config))


def frozen_image_encoder(config: Config, weights: dict[str, torch.Tensor]) -> FrozenEncoder:
    """Build what images are compared by, which ``mining.image_feature`` names.

    Args:
        config: names the feature, the network's sizes and the device.
        weights: a finished training's tensors. Where they hold no projector, as weights from elsewhere do, the
            backbone stands for it; :func:`image_feature` tells which it is.

    Raises:
        ValueError: the weights do not fit the backbone, or are of no projector known here.
        RuntimeError: they do not fit the projector's widths.
    """
    prefix = "online.projector."
    projector_weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if config.mining.image_feature == "backbone" or not projector_weights:
        return frozen_backbone(config, weights)
    backbone = build_backbone(config.encoder.backbone)
    load_backbone(backbone, weights, prefix="online.backbone.")
    projector = load_projector(backbone.features, config.encoder.hidden, config.encoder.output, projector_weights)
    return FrozenEncoder(backbone, projector, _device(config))


def image_feature(encoder: FrozenEncoder) -> str:
    """Name what an encoder gives in the words of ``mining.image_feature``."""
    return "backbone" if encoder.projector is None else "projector"


def _device(config: Config) -> torch.device:
    return torch.device("cuda" if config.execution.use_gpu else "cpu")


def _outputs(projector: nn.Sequential) -> int:
    last = projector[-1]
    if isinstance(last, nn.BatchNorm1d):
        return last.num_features
    if not isinstance(last, nn.Linear):
        raise TypeError(f"a projector ends in a linear layer or a batch norm, not in {type(last).__name__}")
    return last.out_features
