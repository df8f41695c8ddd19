"""A logarithm that is quick, for features that need no more than three digits."""

import numpy as np

from operators.kernel import kernel


@kernel
def log_above_one(value: float) -> float:
    """Natural logarithm of a number of at least 1.

    The mantissa m, brought to 0.75..1.5, has ``log m ≈ 2 (r + r³/3)`` with
    ``r = (m - 1) / (m + 1)``.
    """
    mantissa, result = np.float32(value), np.float32(0.0)
    while mantissa >= np.float32(24.0):
        mantissa *= np.float32(0.0625)
        result += np.float32(2.772588722239781)
    while mantissa >= np.float32(1.5):
        mantissa *= np.float32(0.5)
        result += np.float32(0.6931471805599453)
    ratio = (mantissa - np.float32(1.0)) / (mantissa + np.float32(1.0))
    return float(result + ratio * (np.float32(2.0) + np.float32(0.6666667) * ratio * ratio))


@kernel
def fast_log(value: float) -> float:
    """Natural logarithm of a number above 0, to about one part in a thousand.

    Examples
    --------
    >>> round(fast_log(20.0), 2), round(fast_log(0.05), 2)
    (3.0, -3.0)
    """
    return log_above_one(value) if value >= 1.0 else -log_above_one(1.0 / value)
