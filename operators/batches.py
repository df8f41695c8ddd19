"""What a kernel cannot check for itself: that a batch's arrays fit each other and the rows."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from operators.errors import ParameterError, StateMismatchError

Scalar = TypeVar("Scalar", bound=np.generic)


def plain(array: NDArray[Any], dtype: type[Scalar]) -> NDArray[Scalar]:
    """Return `array` as a contiguous, writeable array of `dtype`; itself where it is that already.

    A kernel is compiled anew, for seconds, for every other kind of array that it meets.

    Examples
    --------
    >>> plain(np.arange(6, dtype=np.int32)[::2], np.int64).tolist()
    [0, 2, 4]
    """
    result = np.ascontiguousarray(array, dtype)
    return result if result.flags.writeable else result.copy()


def require_rows(
    owner: str, columns: NDArray[np.void], row_dtype: np.dtype[np.void], slots: NDArray[np.int64]
) -> None:
    """Refuse rows of another layout, and slots outside them.

    Raises
    ------
    StateMismatchError
        Where `columns` are not of `row_dtype`.
    ParameterError
        Where a slot is out of range.
    """
    if columns.dtype != row_dtype:
        raise StateMismatchError(f"{owner} needs rows of {row_dtype}, not of {columns.dtype}")
    if len(slots) and not 0 <= slots.min() <= slots.max() < len(columns):
        raise ParameterError(
            f"{owner}: slots {slots.min()}..{slots.max()} lie outside {len(columns)} rows"
        )


def require_lengths(owner: str, expected: int, **arrays: NDArray[Any]) -> None:
    """Refuse arrays that are not as long as the batch.

    Raises
    ------
    ParameterError
        Naming the first array of another length.

    Examples
    --------
    >>> require_lengths("History", 2, items=np.zeros(3))
    Traceback (most recent call last):
    operators.errors.ParameterError: History: items has 3 entries, expected 2
    """
    for name, array in arrays.items():
        if len(array) != expected:
            raise ParameterError(f"{owner}: {name} has {len(array)} entries, expected {expected}")
