"""The one way to compile a kernel.

A kernel is a function over numpy arrays that runs record by record at machine speed. It is
compiled at its first call and cached beside its module; it releases the interpreter lock.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with numba: cached, without the interpreter lock, strict IEEE floats.

    Use it as a decorator on a function of a module; the cache is found by the module's file::

        @kernel
        def total(values: NDArray[np.float64]) -> float:
            result = 0.0
            for value in values:
                result += value
            return result
    """
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))
