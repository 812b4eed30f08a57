"""Cosine similarities that depend on nothing but the vectors: unit float16 numbers, multiplied in float64.

Shards, batches, threads and the BLAS change no bit of them, as float64 is exact here. A float16 is a whole multiple of
2^-24, so every product of two is a whole multiple of 2^-48. By Cauchy-Schwarz the absolute products of two unit vectors
sum to at most 1 (1.01 after rounding to float16), whatever their length. So every partial sum, in any order, fused or
not, is a multiple of 2^-48 below 2: 49 bits, which float64 holds without rounding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orl_ray.mining.half_floats import as_single

# Rounding to float16 moves a squared norm by about 2^-10 at most; a vector further off was not normalised.
_NORM_TOLERANCE = 0.01


def widen(vectors: NDArray[np.float16], name: str) -> NDArray[np.float64]:
    """Check that vectors are what exact similarities need, and convert them.

    Args:
        vectors: (n, D) unit vectors, float16.
        name: what they are, for the message of an error.

    Returns:
        (n, D) float64, the same values.

    Raises:
        ValueError: another shape or type, or a vector whose norm is not 1 (not normalised, or not finite).
    """
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        raise ValueError(f"{name} must be (n, D) float16, not {vectors.shape} {vectors.dtype}")
    wide = as_single(vectors).astype(np.float64)
    squared = np.einsum("nd,nd->n", wide, wide)
    # Written so that NaN fails, too.
    wrong = np.flatnonzero(~(np.abs(squared - 1) <= _NORM_TOLERANCE))
    if wrong.size:
        raise ValueError(f"{name} must be unit vectors: row {wrong[0]} has squared norm {squared[wrong[0]]:.4g}")
    return wide


def similarities(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Multiply vectors exactly.

    Args:
        left: (n, D) vectors; unit float16 values, or coarser than 2^-24 and no longer than 1.
        right: (m, D) the same.

    Returns:
        (n, m) float64 dot products, without rounding error and without negative zeros.
    """
    # A sum of zeros is -0.0 or 0.0 depending on its order; adding 0.0 leaves one of them.
    return left.astype(np.float64, copy=False) @ right.astype(np.float64, copy=False).T + 0.0
