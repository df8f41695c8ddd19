"""The one way to compile a kernel.

A kernel is a function over numpy arrays that runs record by record at machine speed. It is
compiled at its first call and cached on disk. Only a long-running kernel should release the
interpreter lock: taking it back may mean to wait until another thread's turn is over.

numba decides by a kernel's own file whether a cached one is still good, and would go on using it
after a kernel that it calls was changed in another file. So the cache lies in a directory named
after all sources of this package.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba
from numba.core import config

P = ParamSpec("P")
R = TypeVar("R")


def _cache_directory() -> str:
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.glob("*.py")):
        digest.update(path.read_bytes())
    return str(package / "__pycache__" / f"kernels-{digest.hexdigest()[:16]}")


# numba fills its configuration from the environment when it is imported.
if not config.CACHE_DIR:  # type: ignore[attr-defined] # see above
    # Where this directory cannot be written, numba falls back to one that can.
    config.CACHE_DIR = _cache_directory()  # type: ignore[attr-defined] # see above


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with numba: cached, strict IEEE floats, holding the interpreter lock.

    Use it as a decorator on a function of a module; the cache is found by the module's file::

        @kernel
        def total(values: NDArray[np.float64]) -> float:
            result = 0.0
            for value in values:
                result += value
            return result
    """
    return cast(Callable[P, R], numba.njit(cache=True)(function))


def long_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile like `kernel`, for work of milliseconds: other threads run meanwhile."""
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))


def loose_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile like `kernel`, but sums may be added up in another order, which is quicker.

    Only for what is not learned from: the last bits may differ from machine to machine.
    """
    loose = numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
    return cast(Callable[P, R], loose(function))
