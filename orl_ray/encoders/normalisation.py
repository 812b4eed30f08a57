"""The colours that every network here takes: RGB by ImageNet's mean and standard deviation (specification 1.5)."""

from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(colours: Tensor) -> Tensor:
    """Normalise colours.

    Args:
        colours: (n, 3, H, W) float RGB in [0, 1], on any device.

    Returns:
        (n, 3, H, W) of the same type, on the same device.
    """
    mean, std = (colours.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (colours - mean) / std
