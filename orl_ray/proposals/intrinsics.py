"""A machine instruction that numba has no name for."""

from typing import Any

from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def fused_multiply_add(_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c of three floats of one type, rounded once."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, b, c), generate
