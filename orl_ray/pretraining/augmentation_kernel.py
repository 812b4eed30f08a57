"""The photometric augmentation of one image on the CPU, compiled: what ``augmentation`` does to a batch on a device.

A chain of tensor operations goes through memory once an operation, for all images of a batch, and that is what it
costs on a CPU. Here one image at a time stays in the second-level cache, in planes of float32, from its bytes to the
network's input. The operations are those of ``augmentation``, in the same order; the tests compare both with
torchvision's.
"""

import numpy as np
from numpy.typing import NDArray

from orl_ray.proposals.kernel import kernel

_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_ZERO, _ONE, _TWO, _FOUR, _SIX = (np.float32(value) for value in (0, 1, 2, 4, 6))
_BYTE = np.float32(255)
_BRIGHTNESS, _CONTRAST, _SATURATION = 0, 1, 2

Plane = NDArray[np.float32]


@kernel
def augment_image(
    pixels: NDArray[np.uint8],
    flip: bool,
    order: NDArray[np.int64],
    factors: Plane,
    grayscale: bool,
    taps: Plane,
    threshold: float,
    mean: Plane,
    std: Plane,
    scratch: Plane,
    out: Plane,
) -> None:
    """Flip, jitter, turn gray, blur, solarise and normalise one image.

    Args:
        pixels: (side, side, 3) uint8.
        flip: whether left and right are exchanged.
        order: colour operations in their order, 0 brightness, 1 contrast, 2 saturation, 3 hue; empty for none.
        factors: (4,) of the operations, by their numbers.
        grayscale: whether it turns gray.
        taps: (2 r + 1,) of the blur, r < side; empty for none.
        threshold: colours from here upwards, in [0, 1], are inverted; above 1 none is.
        mean: (3,) subtracted from the colours.
        std: (3,) what they are divided by then.
        scratch: (4, side, side) float32, overwritten; from call to call the same, so that it stays in the cache.
        out: (side, side, 3) float32, written.
    """
    side = pixels.shape[0]
    planes = scratch[:3]
    _load(pixels, flip, planes)
    for operation in order:
        factor = factors[operation]
        if operation == _BRIGHTNESS:
            _brighten(planes, factor)
        elif operation == _CONTRAST:
            _contrast(planes, factor)
        elif operation == _SATURATION:
            _saturate(planes, factor)
        else:
            _turn_hue(planes, factor)
    if grayscale:
        _saturate(planes, _ZERO)
    if len(taps):
        _blur(planes, taps, scratch[3])
    if threshold <= 1:
        _solarise(planes, np.float32(threshold))
    for y in range(side):
        for x in range(side):
            for channel in range(3):
                out[y, x, channel] = (planes[channel, y, x] - mean[channel]) / std[channel]


@kernel
def _load(pixels: NDArray[np.uint8], flip: bool, planes: Plane) -> None:
    side = pixels.shape[0]
    for y in range(side):
        row = pixels[y]
        for channel in range(3):
            plane = planes[channel, y]
            if flip:
                for x in range(side):
                    plane[x] = np.float32(row[side - 1 - x, channel]) / _BYTE
            else:
                for x in range(side):
                    plane[x] = np.float32(row[x, channel]) / _BYTE


@kernel
def _blend(value: np.float32, other: np.float32, factor: np.float32) -> np.float32:
    return min(max(factor * value + (_ONE - factor) * other, _ZERO), _ONE)


@kernel
def _gray(red: np.float32, green: np.float32, blue: np.float32) -> np.float32:
    return _RED * red + _GREEN * green + _BLUE * blue


@kernel
def _brighten(planes: Plane, factor: np.float32) -> None:
    flat = planes.reshape(-1)
    for index in range(len(flat)):
        flat[index] = _blend(flat[index], _ZERO, factor)


@kernel
def _contrast(planes: Plane, factor: np.float32) -> None:
    side = planes.shape[1]
    columns = np.zeros(side, np.float64)  # sums of columns: such a loop fills vector registers, one long sum does not
    for y in range(side):
        red, green, blue = planes[0, y], planes[1, y], planes[2, y]
        for x in range(side):
            columns[x] += np.float64(_gray(red[x], green[x], blue[x]))
    mean = np.float32(columns.sum() / (side * side))
    flat = planes.reshape(-1)
    for index in range(len(flat)):
        flat[index] = _blend(flat[index], mean, factor)


@kernel
def _saturate(planes: Plane, factor: np.float32) -> None:
    red, green, blue = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    for index in range(len(red)):
        gray = _gray(red[index], green[index], blue[index])
        red[index] = _blend(red[index], gray, factor)
        green[index] = _blend(green[index], gray, factor)
        blue[index] = _blend(blue[index], gray, factor)


@kernel
def _turn_hue(planes: Plane, shift: np.float32) -> None:
    reds, greens, blues = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    turn = _SIX * shift
    for index in range(len(reds)):
        red, green, blue = reds[index], greens[index], blues[index]
        value, low = max(red, green, blue), min(red, green, blue)
        chroma = value - low
        divisor = _ONE if chroma == _ZERO else chroma
        sector = _TWO + (blue - red) / divisor if value == green else _FOUR + (red - green) / divisor
        sector = (green - blue) / divisor if value == red else sector
        sector += turn
        reds[index] = value - chroma * _fall(sector + np.float32(5))
        greens[index] = value - chroma * _fall(sector + np.float32(3))
        blues[index] = value - chroma * _fall(sector + _ONE)


@kernel
def _fall(distance: np.float32) -> np.float32:
    """Say by how much of its chroma a channel lies below the value, at a distance in (-6, 12) sixths of a turn."""
    distance = distance - _SIX if distance >= _SIX else distance
    distance = distance + _SIX if distance < _ZERO else distance
    return min(max(min(distance, _FOUR - distance), _ZERO), _ONE)


@kernel
def _blur(planes: Plane, taps: Plane, across: Plane) -> None:
    side, radius = planes.shape[1], len(taps) // 2
    line = np.empty(side + 2 * radius, np.float32)
    for channel in range(3):
        plane = planes[channel]
        for y in range(side):
            line[radius : radius + side] = plane[y]
            for reach in range(1, radius + 1):  # reflected, the border itself not repeated
                line[radius - reach] = plane[y, reach]
                line[radius + side - 1 + reach] = plane[y, side - 1 - reach]
            _weigh(line, taps, across[y])
        for y in range(side):
            row = plane[y]
            row[:] = 0
            for tap in range(len(taps)):
                source = abs(y + tap - radius)
                source = side - 1 - abs(side - 1 - source)
                _add(across[source], taps[tap], row)


@kernel
def _weigh(line: Plane, taps: Plane, row: Plane) -> None:
    row[:] = 0
    for tap in range(len(taps)):
        _add(line[tap:], taps[tap], row)


@kernel
def _add(values: Plane, weight: np.float32, sums: Plane) -> None:
    for x in range(len(sums)):
        sums[x] += weight * values[x]


@kernel
def _solarise(planes: Plane, threshold: np.float32) -> None:
    flat = planes.reshape(-1)
    for index in range(len(flat)):
        value = flat[index]
        flat[index] = _ONE - value if value >= threshold else value
