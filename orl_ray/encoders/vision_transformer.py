"""Vision transformers (Dosovitskiy et al., 2021) that take images of any size, and their seeded initialisation.

The state dict has torchvision's keys without ``heads``. Positions are learned on the grid of a 224 px image and
interpolated to others: patches of 96 px go through the same network as views of 224.
"""

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from orl_ray.encoders.backbone import Backbone

PATCH = 16
_IMAGE = 224
_STD = 0.02


class VisionTransformer(Backbone):
    """A vision transformer without its classifier; a vector is the mean of an image's patch tokens.

    Args:
        width: length of a token, and of the vectors.
        heads: attention heads, which divide the width.
        layers: attention layers.
    """

    stride = PATCH
    first_centre = PATCH / 2

    def __init__(self, width: int, heads: int, layers: int = 12) -> None:
        super().__init__()
        self.features = width
        with torch.random.fork_rng(devices=[]):  # torchvision draws its own initial weights; those must not leak
            whole = torchvision.models.VisionTransformer(_IMAGE, PATCH, layers, heads, width, 4 * width)
        self.class_token: nn.Parameter = whole.class_token
        self.conv_proj: nn.Conv2d = whole.conv_proj
        self.encoder = whole.encoder

    def maps(self, images: Tensor) -> Tensor:
        """Return the patch tokens of the last layer, as :meth:`Backbone.maps`; pixels beyond whole patches are cut."""
        patches = self.conv_proj(images)
        rows, columns = patches.shape[2:]
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
        encoded = self.encoder.ln(self.encoder.layers(tokens + self._positions(rows, columns)))
        maps: Tensor = encoded[:, 1:].mT.reshape(len(images), self.features, rows, columns)
        return maps

    def draw_weights(self, generator: torch.Generator) -> None:
        """Set every weight: truncated normal of deviation 0.02, biases 0, norms to 1 and 0 (DeiT's initialisation)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:  # the scale of a norm
                nn.init.ones_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=_STD, generator=generator)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the (1, 1 + rows * columns, width) positions of the class token and a grid of patches."""
        learned: Tensor = self.encoder.pos_embedding
        side = _IMAGE // PATCH
        if (rows, columns) == (side, side):
            return learned
        grid = learned[:, 1:].mT.reshape(1, self.features, side, side)
        resized = functional.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        return torch.cat([learned[:, :1], resized.flatten(2).mT], dim=1)
