"""How long a list takes from its trigger to a listener."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.listener import Heard
from benchmarks.report import quantile


@dataclass(frozen=True)
class Latencies:
    """Seconds from a list's trigger to its arrival; `not_held` without lists held back."""

    all_lists: np.ndarray[Any, np.dtype[np.float64]]
    not_held: np.ndarray[Any, np.dtype[np.float64]]


def latencies_of(heard: Heard, sent_ms: dict[str, int], every_ms: float) -> Latencies:
    """Match lists with the events that triggered them.

    Parameters
    ----------
    sent_ms
        When each event of the steady load was sent; other lists are left out.
    every_ms
        A customer gets at most one list in this time.
    """
    last_arrival: dict[str, float] = {}
    seconds, held = [], []
    columns = zip(heard.customers, heard.event_ids, heard.arrived_ms, strict=True)
    for customer, event_id, arrived_ms in columns:
        sent = sent_ms.get(event_id)
        if sent is not None:
            seconds.append((arrived_ms - sent) / 1_000)
            held.append(customer in last_arrival and sent < last_arrival[customer] + every_ms)
        last_arrival[customer] = arrived_ms
    all_lists = np.array(seconds, np.float64)
    return Latencies(all_lists, all_lists[~np.array(held, bool)])


def summary_of(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float | int | None]:
    """Return `p50`, `p99` and `max` in seconds, and the number of lists."""
    return {
        "p50": quantile(seconds, 0.50),
        "p99": quantile(seconds, 0.99),
        "max": quantile(seconds, 1.0),
        "lists": len(seconds),
    }
