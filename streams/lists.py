"""Recommendation lists owed and paid.

A customer whose event was applied is owed a list. The mark lives in the customer's row, so it
survives a crash; the order of payment lives here, in memory, and is rebuilt from the marks.
A customer gets a list at most every `every_seconds`; what falls due in between is paid when that
time is over, from the state as it is by then.
"""

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

EVENT_ID_BYTES = 64

ROW_DTYPE = np.dtype(
    [
        ("owed", "u1"),
        ("trigger_topic", "u1"),
        ("refusals", "u1"),
        ("trigger_event", f"S{EVENT_ID_BYTES}"),
        ("trigger_offset", "i8"),
        ("trigger_ms", "i8"),
        ("list_hash", "u8"),
    ],
    align=True,
)

IDLE, READY, COOLING = 0, 1, 2


@kernel
def _enqueue(
    states: NDArray[np.uint8], slots: NDArray[np.int64], out: NDArray[np.int64]
) -> int:  # pragma: no cover - compiled
    """Mark idle slots as ready and list each once; return how many."""
    found = 0
    for slot in slots:
        if states[slot] == IDLE:
            states[slot] = READY
            out[found] = slot
            found += 1
    return found


class OwedLists:
    """Who is owed a list in one partition, in the order in which it fell due.

    Parameters
    ----------
    every_seconds
        Shortest time between two lists of a customer, processing time, at least 0.
    clock
        Returns seconds, monotonic.

    Examples
    --------
    >>> now = [0.0]
    >>> lists = OwedLists(every_seconds=1.0, clock=lambda: now[0])
    >>> rows = np.zeros(4, ROW_DTYPE)
    >>> rows["owed"][[2, 1]] = 1
    >>> lists.owe(np.array([2, 1, 2]), capacity=4)
    >>> lists.take(rows, 10).tolist()
    [2, 1]
    >>> rows["owed"][2] = 1
    >>> lists.owe(np.array([2]), capacity=4)
    >>> lists.take(rows, 10).tolist()
    []
    >>> now[0] = 1.5
    >>> lists.take(rows, 10).tolist()
    [2]
    """

    def __init__(self, every_seconds: float, clock: Callable[[], float]) -> None:
        self._every_seconds = every_seconds
        self._clock = clock
        self._states = np.zeros(0, np.uint8)
        self._ready: deque[int] = deque()
        self._cooling: deque[tuple[float, int]] = deque()

    def owe(self, slots: NDArray[np.int64], capacity: int) -> None:
        """Queue the customers in `slots` (rows already marked), unless queued or cooling."""
        if len(self._states) < capacity:
            self._states = np.concatenate(
                [self._states, np.zeros(capacity - len(self._states), np.uint8)]
            )
        fresh = np.empty(len(slots), np.int64)
        found = _enqueue(self._states, slots, fresh)
        self._ready.extend(fresh[:found].tolist())

    def take(self, rows: NDArray[np.void], most: int) -> NDArray[np.int64]:
        """Take up to `most` customers whose list is due; clear their marks in `rows`.

        Returns
        -------
        int64 slots, in the order in which they fell due, each once.
        """
        self._wake(rows)
        owed = rows["owed"]
        taken: list[int] = []
        until = self._clock() + self._every_seconds
        while self._ready and len(taken) < most:
            slot = self._ready.popleft()
            if not owed[slot]:  # the row was removed meanwhile
                self._states[slot] = IDLE
                continue
            owed[slot] = 0
            taken.append(slot)
            self._states[slot] = COOLING
            self._cooling.append((until, slot))
        return np.array(taken, np.int64)

    def _wake(self, rows: NDArray[np.void]) -> None:
        now = self._clock()
        owed = rows["owed"]
        while self._cooling and self._cooling[0][0] <= now:
            _, slot = self._cooling.popleft()
            if owed[slot]:
                self._states[slot] = READY
                self._ready.append(slot)
            else:
                self._states[slot] = IDLE

    def seconds_until_due(self) -> float | None:
        """Seconds until the next cooling customer may be paid; None where nobody cools."""
        if not self._cooling:
            return None
        return max(0.0, self._cooling[0][0] - self._clock())
