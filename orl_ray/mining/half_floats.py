"""Float16 numbers as float32, by integer arithmetic: several times faster than NumPy's own conversion.

NumPy takes float16 numbers one by one, and those below 2^-14 (a quarter of a RoI vector may be) ten times as long as
others; beside a matrix product in float32 the conversion of its operands would be most of the time.
"""

import numpy as np
from numpy.typing import NDArray

# Shifted by 13 bits a float16 is a float32 but for its exponent, whose bias is 15 in place of 127, and for copies of
# the sign in bits 28 to 30.
_MANTISSA_SHIFT = 13
_SIGN_COPIES = ~np.int32(0x70000000)
_BIAS = np.array([2.0**112], dtype=np.float32)
_SUBNORMAL = np.array([2.0**-140], dtype=np.float32)


def as_single(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """Convert finite float16 numbers exactly; what is not finite becomes some number of at least 65,536 in size.

    Args:
        vectors: float16, of any shape.

    Returns:
        float32, the same shape and values.

    Raises:
        ValueError: the numbers are not float16.
        FloatingPointError: something made this thread take subnormal numbers for zeros, as code built with
            ``-ffast-math`` does.
    """
    if vectors.dtype != np.float16:
        raise ValueError(f"numbers to convert must be float16, not {vectors.dtype}")
    if not (_SUBNORMAL * _BIAS)[0]:
        raise FloatingPointError("a library of this process flushes subnormal numbers to zero: vectors would change")
    bits = np.ascontiguousarray(vectors).view(np.int16).astype(np.int32)
    np.left_shift(bits, _MANTISSA_SHIFT, out=bits)
    bits &= _SIGN_COPIES
    single = bits.view(np.float32)
    single *= _BIAS
    return single
