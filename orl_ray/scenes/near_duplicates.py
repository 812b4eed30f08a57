"""Near-duplicates: photographs of one burst, frames of one video, re-uploads of one picture.

Two images are near-duplicates when their perceptual hashes differ in few bits and their thumbnails in few grey levels;
groups are the connected components of that relation. The hash looks at structure and forgives another brightness,
encoding or size; the thumbnail tells apart what has none, such as a black and a white page, and what looks alike by
chance. Where an image has little structure, few bits of its hash are set, and fewer may differ: all skies would be one
group.

The hash is that of Zauner ("Implementation and benchmarking of perceptual image hash functions", 2010), with the lowest
frequencies in zigzag order instead of a square of them, which survive small shifts better.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_BYTES = 192
_SIDE, _THUMBNAIL_SIDE, _BITS = 32, 8, 64
# A coefficient of 4 is a wave of a quarter of a grey level: below lie rounding and sensor noise.
_LEAST_COEFFICIENT = 4.0
_LUMA = np.array([77.0, 150.0, 29.0]) / 256  # ITU-R BT.601, exact in floating point
# Multi-index hashing (Norouzi, Punjani & Fleet, CVPR 2012): four bands of 16 bits, each with its buckets.
_BANDS, _BAND_BITS = 4, 16
# Pairs of images held at once, about 50 bytes each.
_PAIRS = 1 << 20
# Pairs of thumbnails held at once, about 800 bytes each.
_THUMBNAIL_PAIRS = 1 << 14
# Images of a component from which on its own pairs are passed over.
_LARGE = 256


def _cosines() -> NDArray[np.float64]:
    """Return (11, 32) rows of the orthonormal DCT-II, as many as 64 zigzag coefficients need."""
    frequencies, places = np.arange(11)[:, None], np.arange(_SIDE) + 0.5
    rows: NDArray[np.float64] = np.sqrt(2 / _SIDE) * np.cos(np.pi / _SIDE * frequencies * places)
    return rows


def _zigzag() -> tuple[list[int], list[int]]:
    """Return rows and columns of the 64 lowest frequencies but the mean, dealt to the bands in turn.

    So every band gets low and high frequencies. An image without fine structure has zeros for the high ones, and a band
    of these alone would put all such images into one bucket.
    """
    places = sorted(((row, column) for row in range(11) for column in range(11)), key=lambda at: (sum(at), at))
    wanted = places[1 : _BITS + 1]
    dealt = [place for band in range(_BANDS) for place in wanted[band::_BANDS]]
    return [row for row, _ in dealt], [column for _, column in dealt]


_COSINES, _ZIGZAG = _cosines(), _zigzag()


def fingerprint(image: NDArray[np.uint8]) -> tuple[int, bytes]:
    """Compute what near-duplicates are known by.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        The 64-bit perceptual hash, unsigned, and the thumbnail: 8 x 8 x 3 uint8 RGB, 192 bytes. An image without
        structure hashes to 0.

    Raises:
        ValueError: the image is empty or not (H, W, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"fingerprint: an image is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(small, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    coefficients = _COSINES @ (small @ _LUMA) @ _COSINES.T
    bits = np.packbits(coefficients[_ZIGZAG] > _LEAST_COEFFICIENT)
    return int.from_bytes(bits.tobytes(), "big"), thumbnail.tobytes()


class _Images(NamedTuple):
    """What images are compared by, and how near is near."""

    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    max_distance: int
    max_colour_difference: float


def group_near_duplicates(
    ids: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    max_distance: int,
    max_colour_difference: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group images: the connected components over pairs that agree in hash and thumbnail.

    Exactly what a comparison of all pairs finds. Pairs are looked for among images of which at least one band of the
    hash nearly agrees: where hashes differ in at most d bits, not every band i can differ in more than r_i bits, if the
    r_i + 1 add up to d + 1. Memory: about 350 bytes an image and 100 MB.

    Args:
        ids: (n,) int64 image ids, distinct, in any order.
        hashes: (n,) uint64 perceptual hashes.
        thumbnails: (n, 192) uint8.
        max_distance: bits in which hashes may differ, 0 to 63; at most two thirds of those set in either.
        max_colour_difference: mean absolute difference that thumbnails of equal hashes may have, grey levels. The more
            bits differ the fewer levels may: half of them where ``max_distance`` bits do.

    Returns:
        (m,) int64 rising ids of the images that have a near-duplicate, and (m,) int64 their groups; a group is named by
        the smallest image id in it.

    Raises:
        ValueError: the arrays do not go together, an id occurs twice, or the distance is out of range.
    """
    if not len(ids) == len(hashes) == len(thumbnails) or thumbnails.shape[1:] != (THUMBNAIL_BYTES,):
        raise ValueError(f"near-duplicates: ids {ids.shape}, hashes {hashes.shape}, thumbnails {thumbnails.shape}")
    if not 0 <= max_distance < _BITS:
        raise ValueError(f"near-duplicates: the distance must be 0 to {_BITS - 1} bits, not {max_distance}")
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(order, np.arange(len(ids))):
        ids, hashes, thumbnails = ids[order], hashes[order], thumbnails[order]
    repeated = np.flatnonzero(np.diff(ids) == 0)
    if repeated.size:
        raise ValueError(f"near-duplicates: image id {ids[repeated[0]]} occurs twice")
    images = _Images(hashes.astype("<u8"), thumbnails, max_distance, max_colour_difference)
    forest = np.arange(len(ids))  # each row points to a smaller one of its component; the smallest to itself
    for band in range(_BANDS):
        _unite_by_band(forest, images, band)
    groups = _roots(forest, np.arange(len(ids)))
    grouped = np.bincount(groups, minlength=len(ids))[groups] > 1
    return ids[grouped], ids[groups[grouped]]


def _unite_by_band(forest: NDArray[np.int64], images: _Images, band: int) -> None:
    """Unite the near images of which this band nearly agrees."""
    radius = (images.max_distance + 1 + band) // _BANDS - 1  # over all bands, radius + 1 add up to max_distance + 1
    if radius < 0:
        return
    values = images.hashes.view(np.uint16).reshape(-1, _BANDS)[:, band].astype(np.int64)
    # Most of a long film is united by its likeness to the next image in order: then its pairs need not be looked at.
    order = np.lexsort((images.thumbnails.sum(axis=1, dtype=np.int64), images.hashes, values))
    _unite_near(forest, images, order[:-1], order[1:])
    components = _roots(forest, np.arange(len(forest)))
    order = np.lexsort((components, values))
    hashes = images.hashes[order]
    for left, right in _candidates(values[order], components[order], radius):
        near = np.flatnonzero(np.bitwise_count(hashes[left] ^ hashes[right]) <= images.max_distance)
        if near.size:
            _unite_near(forest, images, order[left[near]], order[right[near]])


def _candidates(
    values: NDArray[np.int64], components: NDArray[np.int64], radius: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield positions (left, right) of all pairs whose 16-bit values differ in at most ``radius`` bits, some at a time.

    Rows are ordered by (value, component). Pairs within a large component are passed over: the square of a day of film
    would take hours.
    """
    masks = np.arange(1 << _BAND_BITS)
    starts = np.searchsorted(values, np.arange((1 << _BAND_BITS) + 1))
    large = (np.bincount(components, minlength=1) >= _LARGE)[components]
    keys = values * len(values) + components
    for flipped in masks[np.bitwise_count(masks) <= radius]:
        # Of the two buckets that a flip joins, the lower one asks; within one bucket, a row asks those behind it.
        asking = np.flatnonzero(values <= values ^ flipped)
        asked = values[asking] ^ flipped
        first, last = (starts[asked] if flipped else asking + 1), starts[asked + 1]
        for some, kin in ((~large[asking], False), (large[asking], True)):
            rows, begin, end = asking[some], first[some], last[some]
            if kin and rows.size:
                own = asked[some] * len(values) + components[rows]
                yield from _spread(rows, begin, np.maximum(begin, np.searchsorted(keys, own, "left")))
                begin = np.maximum(begin, np.searchsorted(keys, own, "right"))
            yield from _spread(rows, begin, end)


def _spread(
    rows: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pair each row with the positions [begin, end), at most ``_PAIRS`` pairs at a time."""
    stops = np.cumsum(end - begin)
    starts = stops - (end - begin)
    total = int(stops[-1]) if len(stops) else 0
    for start in range(0, total, _PAIRS):
        stop = min(start + _PAIRS, total)
        some = slice(np.searchsorted(stops, start, "right"), np.searchsorted(stops, stop, "left") + 1)
        taken = np.minimum(stops[some], stop) - np.maximum(starts[some], start)
        yield np.repeat(rows[some], taken), np.arange(start, stop) + np.repeat(begin[some] - starts[some], taken)


def _unite_near(forest: NDArray[np.int64], images: _Images, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    """Unite those of the pairs that are near; pairs of one component are passed over."""
    for start in range(0, len(left), _THUMBNAIL_PAIRS):
        a, b = left[start : start + _THUMBNAIL_PAIRS], right[start : start + _THUMBNAIL_PAIRS]
        distances = np.bitwise_count(images.hashes[a] ^ images.hashes[b])
        structure = np.minimum(np.bitwise_count(images.hashes[a]), np.bitwise_count(images.hashes[b]))
        near = distances <= np.minimum(2 * structure // 3, images.max_distance)
        asked = near & (_roots(forest, a) != _roots(forest, b))
        a, b, distances = a[asked], b[asked], distances[asked]
        differences = np.abs(images.thumbnails[a].astype(np.int16) - images.thumbnails[b]).sum(axis=1, dtype=np.int64)
        share = 1 - distances / (2 * max(1, images.max_distance))
        alike = differences <= images.max_colour_difference * THUMBNAIL_BYTES * share
        _unite(forest, a[alike], b[alike])


def _unite(forest: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    """Join the components of pairs: the larger root points to the smaller."""
    while len(left):
        a, b = _roots(forest, left), _roots(forest, right)
        np.minimum.at(forest, np.maximum(a, b), np.minimum(a, b))
        left, right = left[a != b], right[a != b]


def _roots(forest: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the roots of rows, and let the rows point to them."""
    found = forest[rows]
    while not np.array_equal(above := forest[found], found):
        found = above
    forest[rows] = found
    return found
