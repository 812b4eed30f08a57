"""Near-duplicates: photographs of one burst, frames of one video, re-uploads of one picture.

Two images are near-duplicates when their perceptual hashes differ in few bits and their thumbnails in few grey levels;
groups are the connected components of that relation. The hash looks at structure and forgives another brightness,
encoding or size; the thumbnail tells apart what has none, such as a black and a white page.

The hash is that of Zauner ("Implementation and benchmarking of perceptual image hash functions", 2010), with the lowest
frequencies in zigzag order instead of a square of them, which survive small shifts better.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_BYTES = 192
_SIDE, _THUMBNAIL_SIDE, _BITS = 32, 8, 64
# A coefficient of 4 is a wave of a quarter of a grey level: below that there is rounding and sensor noise, no structure.
_LEAST_COEFFICIENT = 4.0
_LUMA = np.array([77.0, 150.0, 29.0]) / 256  # ITU-R BT.601, exact in floating point
# Multi-index hashing (Norouzi, Punjani & Fleet, CVPR 2012): four bands of 16 bits, each with its buckets.
_BANDS, _BAND_BITS = 4, 16
# Pairs of images held at once, about 50 bytes each.
_PAIRS = 1 << 20
# Pairs of thumbnails held at once, about 800 bytes each.
_THUMBNAIL_PAIRS = 1 << 14


def _cosines() -> NDArray[np.float64]:
    """Return (11, 32) rows of the orthonormal DCT-II, as many as 64 zigzag coefficients need."""
    frequencies, places = np.arange(11)[:, None], np.arange(_SIDE) + 0.5
    return np.sqrt(2 / _SIDE) * np.cos(np.pi / _SIDE * frequencies * places)


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
    r_i + 1 add up to d + 1. Memory: about 300 bytes an image and 100 MB.

    Args:
        ids: (n,) int64 image ids, distinct, in any order.
        hashes: (n,) uint64 perceptual hashes.
        thumbnails: (n, 192) uint8.
        max_distance: bits in which hashes may differ, 0 to 63.
        max_colour_difference: mean absolute difference that thumbnails may have, grey levels.

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
    thumbnails = np.ascontiguousarray(thumbnails)
    roots = _identical(hashes, thumbnails)
    distinct = np.flatnonzero(roots == np.arange(len(ids)))
    limit = int(max_colour_difference * THUMBNAIL_BYTES)
    for left, right in _near_hashes(hashes[distinct], max_distance):
        _join(roots, thumbnails, distinct[left], distinct[right], limit)
    grouped = np.bincount(roots, minlength=len(ids))[roots] > 1
    return ids[grouped], ids[roots[grouped]]


def _identical(hashes: NDArray[np.uint64], thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return (n,) roots that join equal fingerprints: a thousand copies of one file are then one image.

    Each row's root is the smallest position of its component, here and in :func:`_join`.
    """
    # A sum with odd weights, modulo 2^64, brings equal thumbnails together; that they are equal is checked.
    weights = np.random.default_rng(0).integers(0, 1 << 63, THUMBNAIL_BYTES // 8, dtype=np.uint64) * np.uint64(2)
    sums = thumbnails.view(np.uint64) @ (weights + np.uint64(1))
    order = np.lexsort((sums, hashes))
    before, after = order[:-1], order[1:]
    alike = np.flatnonzero((hashes[before] == hashes[after]) & (sums[before] == sums[after]))
    roots = np.arange(len(hashes))
    for start in range(0, len(alike), _THUMBNAIL_PAIRS):
        pairs = alike[start : start + _THUMBNAIL_PAIRS]
        same = pairs[(thumbnails[before[pairs]] == thumbnails[after[pairs]]).all(axis=1)]
        _unite(roots, before[same], after[same])
    return roots


def _near_hashes(hashes: NDArray[np.uint64], max_distance: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield positions (left, right) of hashes within a distance, each pair at least once, a bounded number at a time."""
    words = hashes.astype("<u8").view(np.uint16).reshape(-1, _BANDS)
    for band in range(_BANDS):
        radius = (max_distance + 1 + band) // _BANDS - 1  # the radii plus 1 add up to max_distance + 1
        order = np.argsort(words[:, band], kind="stable")
        values, sorted_hashes = words[order, band].astype(np.int64), hashes[order]
        starts = np.searchsorted(values, np.arange((1 << _BAND_BITS) + 1))
        for flipped in _within(radius):
            # Of the two buckets that a flip joins, the lower one asks; within one bucket, a row asks those behind it.
            asking = np.flatnonzero(values <= values ^ flipped)
            first = starts[values[asking] ^ flipped] if flipped else asking + 1
            counts = starts[(values[asking] ^ flipped) + 1] - first
            for left, right in _spread(asking, first, counts):
                differing = np.bitwise_count(sorted_hashes[left] ^ sorted_hashes[right])
                near = np.flatnonzero(differing <= max_distance)
                if near.size:
                    yield order[left[near]], order[right[near]]


def _within(radius: int) -> NDArray[np.int64]:
    """Return all 16-bit masks with at most ``radius`` bits set; none for a negative radius."""
    masks = np.arange(1 << _BAND_BITS)
    return masks[np.bitwise_count(masks) <= radius] if radius >= 0 else masks[:0]


def _spread(
    rows: NDArray[np.int64], first: NDArray[np.int64], counts: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pair each row with the ``counts`` positions from ``first`` on, at most ``_PAIRS`` pairs at a time."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _PAIRS):
        stop = min(start + _PAIRS, total)
        some = slice(np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left") + 1)
        begins = ends[some] - counts[some]
        taken = np.minimum(ends[some], stop) - np.maximum(begins, start)
        yield np.repeat(rows[some], taken), np.arange(start, stop) + np.repeat(first[some] - begins, taken)


def _join(
    roots: NDArray[np.int64],
    thumbnails: NDArray[np.uint8],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    limit: int,
) -> None:
    """Unite pairs whose thumbnails differ by at most ``limit`` in all; pairs of one component are passed over."""
    for start in range(0, len(left), _THUMBNAIL_PAIRS):
        rows = slice(start, start + _THUMBNAIL_PAIRS)
        apart = np.flatnonzero(roots[left[rows]] != roots[right[rows]]) + start
        a, b = thumbnails[left[apart]].astype(np.int16), thumbnails[right[apart]].astype(np.int16)
        alike = apart[np.abs(a - b).sum(axis=1) <= limit]
        _unite(roots, left[alike], right[alike])


def _unite(roots: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    """Join the components of pairs, in place: hang the larger root below the smaller, then flatten."""
    while True:
        a, b = roots[left], roots[right]
        apart = a != b
        if not apart.any():
            return
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(roots, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(flatter := roots[roots], roots):
            roots[:] = flatter
