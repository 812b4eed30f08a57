"""What every backbone is: images in, one vector an image out, and the feature maps behind it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network without its classifier.

    Attributes:
        features: width of the vectors.
        stride: pixels from one cell of the feature maps to the next.
        first_centre: where the first cell has its centre, pixels from the image's edge.
    """

    features: int
    stride: int
    first_centre: float

    def forward(self, images: Tensor) -> Tensor:
        """Embed images: the mean of :meth:`maps` over all cells.

        Args:
            images: (n, 3, height, width) float, normalised.

        Returns:
            (n, features) float.
        """
        return self.maps(images).mean(dim=(2, 3))

    @abstractmethod
    def maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps.

        Args:
            images: (n, 3, height, width) float, normalised.

        Returns:
            (n, features, rows, columns) float. Cell (i, j) looks at the pixels around ``first_centre + stride * i`` and
            ``first_centre + stride * j``.
        """
