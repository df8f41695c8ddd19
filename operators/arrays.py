"""Copying saved arrays back into an operator's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.errors import StateMismatchError


def load_into(live: Mapping[str, NDArray[Any]], saved: Mapping[str, NDArray[Any]]) -> None:
    """Copy each array of `saved` into the array of the same name in `live`, or change nothing.

    Names of `saved` that `live` does not have are ignored.

    Raises
    ------
    StateMismatchError
        Where a name is missing, or a shape or dtype differs.

    Examples
    --------
    >>> live = {"weights": np.zeros(2)}
    >>> load_into(live, {"weights": np.ones(2)})
    >>> live["weights"].tolist()
    [1.0, 1.0]
    >>> load_into(live, {"weights": np.ones(3)})
    Traceback (most recent call last):
    operators.errors.StateMismatchError: weights: float64 (3,) does not fit float64 (2,)
    """
    for name, array in live.items():
        if name not in saved:
            raise StateMismatchError(f"{name} is missing")
        given = saved[name]
        if given.shape != array.shape or given.dtype != array.dtype:
            raise StateMismatchError(
                f"{name}: {given.dtype} {given.shape} does not fit {array.dtype} {array.shape}"
            )
    for name, array in live.items():
        np.copyto(array, saved[name])


def with_prefix(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Name the arrays of an inner operator ``prefix.name``.

    Examples
    --------
    >>> sorted(with_prefix("scaler", {"mean": np.zeros(1)}))
    ['scaler.mean']
    """
    return {f"{prefix}.{name}": array for name, array in arrays.items()}
