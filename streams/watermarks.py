"""Event time of a partition: how far it has come, and when everybody is looked at again.

The watermark is the smallest, over the source topics, of the largest event time seen, less the
allowed lateness; topics read to their end are left out, else a backlog of clicks would make the
orders of the same hours late. It never goes back.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from state.partition import Progress


def advance(
    progress: Progress, ends: Mapping[str, int], topics: tuple[str, ...], lateness_ms: int
) -> None:
    """Move the watermark of `progress` as far as its topics allow.

    Parameters
    ----------
    progress
        Holds the offsets applied and the largest event times; its watermark is changed.
    ends
        The last known end offset of each topic.
    topics
        The topics that carry events.
    lateness_ms
        How long to wait for late events, in event time.

    Examples
    --------
    >>> progress = Progress(offsets={"clicks": 10, "chats": 4}, max_ts_ms={"clicks": 9000})
    >>> advance(progress, {"clicks": 10, "chats": 4}, ("clicks", "chats"), 1000)
    >>> progress.watermark_ms
    8000
    >>> progress.max_ts_ms["chats"] = 20_000
    >>> advance(progress, {"clicks": 99, "chats": 4}, ("clicks", "chats"), 1000)
    >>> progress.watermark_ms
    8000
    """
    behind = [t for t in topics if progress.offsets.get(t, 0) < ends.get(t, 0)]
    seen = progress.max_ts_ms
    if behind:
        reached = min(seen.get(topic, 0) for topic in behind)
    else:
        reached = max(seen.values(), default=0)
    progress.watermark_ms = max(progress.watermark_ms, reached - lateness_ms)


def sweep_due(progress: Progress, interval_ms: int) -> int | None:
    """Return the boundary that the watermark has crossed since the last sweep, if any.

    Boundaries are the multiples of `interval_ms` since the epoch. Where several were crossed at
    once, only the newest counts: nothing happened in between. The first boundary only starts the
    count.
    """
    boundary = progress.watermark_ms // interval_ms * interval_ms
    if boundary <= progress.sweep_ms:
        return None
    first = progress.sweep_ms == 0
    progress.sweep_ms = boundary
    return None if first else boundary


def runs_between_boundaries(ts_ms: NDArray[np.int64], interval_ms: int) -> list[NDArray[np.int64]]:
    """Cut a chunk's rows where its event time first crosses a boundary.

    So a chunk that spans many days is swept as often as many small ones would be.

    Parameters
    ----------
    ts_ms
        Event times in the order of offsets, int64 (n,), n ≥ 1.

    Returns
    -------
    The row numbers of each run, int64, in order, together 0 … n - 1.
    """
    everything = np.arange(len(ts_ms))
    if ts_ms.max() // interval_ms == ts_ms[0] // interval_ms:
        return [everything]
    days = np.maximum.accumulate(ts_ms) // interval_ms
    cuts = np.flatnonzero(np.diff(days)) + 1
    return np.split(everything, cuts)
