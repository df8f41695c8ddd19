"""Events seen before: a bounded ring of event-id hashes in each customer's row, per topic.

An id is recognised while it is among the customer's last `WINDOW` ids of that topic. The rings
survive what the row survives, so a producer's retry after a crash is recognised too.
"""

import numpy as np
from numpy.typing import NDArray

from operators.kernel import kernel

WINDOW = {"clicks": 32, "purchases": 16, "chats": 16, "feedback": 16}
"""How many of a customer's latest event ids are remembered, by topic."""

ROW_DTYPE = np.dtype(
    [
        *((topic, "u8", size) for topic, size in WINDOW.items()),
        *((f"{topic}_next", "u1") for topic in WINDOW),
    ],
    align=True,
)


@kernel
def _fresh(
    rings: NDArray[np.uint64],
    cursors: NDArray[np.uint8],
    slots: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> NDArray[np.bool_]:  # pragma: no cover - compiled
    fresh = np.ones(len(slots), np.bool_)
    for i in range(len(slots)):
        ring = rings[slots[i]]
        for j in range(len(ring)):
            if ring[j] == keys[i]:
                fresh[i] = False
                break
        if fresh[i]:
            cursor = cursors[slots[i]]
            ring[cursor] = keys[i]
            cursors[slots[i]] = (cursor + 1) % len(ring)
    return fresh


def take_fresh(
    columns: NDArray[np.void], topic: str, slots: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Tell which events are new, and remember them.

    Parameters
    ----------
    columns
        Rows of `ROW_DTYPE`.
    topic
        One of `WINDOW`.
    slots, keys
        int64 and uint64 (n,): each event's customer and the hash of its id, never 0.

    Returns
    -------
    bool (n,): False where the customer's ring holds the id already, be it from this very batch.

    Examples
    --------
    >>> rows = np.zeros(2, ROW_DTYPE)
    >>> keys = np.array([7, 7, 7], np.uint64)
    >>> take_fresh(rows, "clicks", np.array([0, 0, 1]), keys).tolist()
    [True, False, True]
    """
    return _fresh(columns[topic], columns[f"{topic}_next"], slots, keys)
