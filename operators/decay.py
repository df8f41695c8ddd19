"""Exponential decay in event time, without touching old counts.

Forward decay: with a landmark L in the past, an event of time t is counted with the weight
``exp(rate · (t - L))``, which grows, instead of letting every older count shrink. At a time T
the decayed count is the stored one times ``exp(-rate · (T - L))``, the same factor for all, so
the order of counts and their ratios need no clock at all. Before the weight can overflow, all
counts are scaled down once and the landmark moves up.

The clock moves with the events, and by at most one half-life per event: a record stamped far in
the future costs the past one halving, not its life. A record of the past is counted with the
small weight that it has by now.

Replicas that see different events of one stream have clocks of their own. What one has counted is
told together with its clock; the other's clock moves up to it, as if it had seen those events.

References
----------
Cormode, G., Shkapenyuk, V., Srivastava, D. and Xu, B. (2009). Forward decay: a practical time
decay model for streaming systems. ICDE.
"""

import math

import numpy as np
from numpy.typing import NDArray

from operators.errors import StateMismatchError
from operators.kernel import kernel

LANDMARK, NOW, STARTED = 0, 1, 2
CLOCK_SIZE = 3
# float32 counts keep 2^40 of head room for sums above this weight.
MAX_HALF_LIVES = 60


def require_clock(owner: str, clock: NDArray[np.int64]) -> None:
    """Refuse another replica's clock that never ran.

    Raises
    ------
    StateMismatchError
        Where the clock has not started, or its landmark lies ahead of it.
    """
    if clock[STARTED] != 1 or clock[LANDMARK] > clock[NOW]:
        raise StateMismatchError(f"{owner}: the clock of a delta is none: {clock.tolist()}")


def decay_rate(half_life_ms: float) -> float:
    """Rate per millisecond at which a count halves in `half_life_ms`."""
    return math.log(2.0) / half_life_ms


@kernel
def half_life_ms(rate: float) -> int:
    """Half-life of a rate in whole milliseconds, at least 1."""
    return max(int(math.log(2.0) / rate + 0.5), 1)


@kernel
def advance(clock: NDArray[np.int64], ts_ms: int, rate: float) -> float:
    """Move the clock to an event of `ts_ms`.

    Parameters
    ----------
    clock
        int64[CLOCK_SIZE]: landmark and newest time in milliseconds, and whether it has started.
    ts_ms
        Event time in milliseconds.
    rate
        Decay per millisecond.

    Returns
    -------
    The factor by which every stored count must be multiplied now; 1.0 almost always.
    """
    if clock[STARTED] == 0:
        clock[LANDMARK] = ts_ms
        clock[NOW] = ts_ms
        clock[STARTED] = 1
        return 1.0
    half_life = half_life_ms(rate)
    ahead = ts_ms - clock[NOW]
    if ahead > 0:
        clock[NOW] += min(ahead, half_life)
    passed = int(clock[NOW] - clock[LANDMARK])
    if passed < MAX_HALF_LIVES * half_life:
        return 1.0
    clock[LANDMARK] = clock[NOW]
    return math.exp(-rate * passed)


@kernel
def merge_clock(
    clock: NDArray[np.int64], other: NDArray[np.int64], rate: float
) -> tuple[float, float]:
    """Move the clock to that of a replica that saw other events, where it is ahead.

    Returns
    -------
    The factors by which every stored count must be multiplied now, and by which the counts that
    come with `other` must be, to be stored here.
    """
    if clock[STARTED] == 0:
        clock[:] = other
        return 1.0, 1.0
    factor = 1.0
    clock[NOW] = max(clock[NOW], other[NOW])
    passed = clock[NOW] - clock[LANDMARK]
    if passed >= MAX_HALF_LIVES * half_life_ms(rate):
        factor = math.exp(-rate * passed)
        clock[LANDMARK] = clock[NOW]
    return factor, math.exp(rate * (other[LANDMARK] - clock[LANDMARK]))


@kernel
def forward_weight(clock: NDArray[np.int64], ts_ms: int, rate: float) -> float:
    """Weight of an event of `ts_ms` in stored counts; of the clock's own time if that is older."""
    return math.exp(rate * (min(ts_ms, clock[NOW]) - clock[LANDMARK]))


@kernel
def unit_now(clock: NDArray[np.int64], rate: float) -> float:
    """Return what one event of the clock's time adds to stored counts."""
    return math.exp(rate * (clock[NOW] - clock[LANDMARK]))
