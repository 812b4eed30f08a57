"""The augmentation of a batch on the CPU: image by image through the compiled kernel, on torch's number of threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orl_ray.encoders.normalisation import MEAN, STD
from orl_ray.pretraining.augmentation import SOLARISE_THRESHOLD, Parameters, blur_taps
from orl_ray.pretraining.augmentation_kernel import augment_image

_MEAN, _STD = np.array(MEAN, np.float32), np.array(STD, np.float32)
_NEVER = 2.0  # a threshold that no colour reaches


def augment_on_host(images: Tensor, parameters: Parameters) -> Tensor:
    """Do what ``augmentation.augment`` says to a batch on the CPU; bits do not depend on the number of threads.

    Args:
        images: (n, 3, side, side) uint8 RGB.
        parameters: of these n images.

    Returns:
        (n, 3, side, side) float32, channels last in memory.
    """
    pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().numpy()
    result = np.empty(pixels.shape, np.float32)
    taps = blur_taps(torch.from_numpy(parameters.sigma), pixels.shape[1]).numpy()

    threads = torch.get_num_threads()

    def every(start: int) -> None:
        scratch = np.empty((4, *pixels.shape[1:3]), np.float32)
        for index in range(start, len(pixels), threads):
            augment_image(
                pixels[index],
                bool(parameters.flip[index]),
                parameters.order[index, : None if parameters.jitter[index] else 0],
                parameters.factors[index],
                bool(parameters.grayscale[index]),
                taps[index, : None if parameters.blur[index] else 0],
                SOLARISE_THRESHOLD if parameters.solarise[index] else _NEVER,
                _MEAN,
                _STD,
                scratch,
                result[index],
            )

    if threads == 1:
        every(0)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="augmentation") as pool:
            list(pool.map(every, range(threads)))
    return torch.from_numpy(result).permute(0, 3, 1, 2)
