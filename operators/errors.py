"""The error tree of the operators.

::

    OperatorError
    ├── NotFiniteError        a NaN or an infinity where a number is needed
    ├── ParameterError        a parameter outside its range
    └── StateMismatchError    arrays that do not fit the operator they are loaded into
"""

import numpy as np
from numpy.typing import NDArray


class OperatorError(Exception):
    """Root of every error that an operator raises on purpose."""


class NotFiniteError(OperatorError, ValueError):
    """A NaN or an infinity where a number is needed."""


class ParameterError(OperatorError, ValueError):
    """A parameter outside its range."""


class StateMismatchError(OperatorError, ValueError):
    """Arrays that do not fit the operator they are loaded into."""


def require_finite(name: str, values: NDArray[np.floating]) -> None:
    """Refuse NaN and infinity before anything is learned from them.

    Raises
    ------
    NotFiniteError
        Naming `name` and the first offending position.

    Examples
    --------
    >>> require_finite("weights", np.array([1.0, np.nan]))
    Traceback (most recent call last):
    operators.errors.NotFiniteError: weights holds nan at position 1
    """
    finite = np.isfinite(values)
    if not finite.all():
        position = int(np.flatnonzero(~finite.ravel())[0])
        raise NotFiniteError(f"{name} holds {values.ravel()[position]} at position {position}")
