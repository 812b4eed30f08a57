"""How loops over pixels and regions are compiled."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

_P = ParamSpec("_P")
_R = TypeVar("_R")


def kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function with numba: one thread, without the GIL, IEEE arithmetic as written, cached on the machine.

    numba keeps the machine code beside the source, or in its own folder in the user's home where that is not writable,
    or in ``NUMBA_CACHE_DIR``. It looks for changes in the function's own file only: remove ``__pycache__`` after a
    change to a kernel that another file calls.

    Args:
        function: what numba can compile.

    Returns:
        The compiled function.
    """
    return cast("Callable[_P, _R]", njit(nogil=True, cache=True)(function))
