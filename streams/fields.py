"""One field of many decoded events as one column, and what no decoder can check by itself.

A check notes what it finds in `faults`, by row; a row with a fault still has a (meaningless) entry
in its column, and is dropped afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import cast

import numpy as np
from numpy.typing import NDArray

from streams.records import ID_MAX_CHARACTERS, Record, milliseconds_of, text_of
from streams.rejects import Reason

EARLIEST_TS_MS = 946_684_800_000
"""2000-01-01T00:00:00Z; an earlier event time is refused."""

AHEAD_MAX_MS = 86_400_000
"""An event time more than a day ahead of the clock is refused."""

Faults = dict[int, tuple[Reason, str]]
"""What is wrong with the events in these rows."""


def too_long(name: str) -> tuple[Reason, str]:
    """Describe the fault of an id of more than 256 characters."""
    return Reason.ID_TOO_LONG, f"{name} has more than {ID_MAX_CHARACTERS} characters"


def ids_of(identifiers: Sequence[str | int], name: str, faults: Faults) -> list[str]:
    """Bring ids to text; find integers of more than 256 digits."""
    return cast(list[str], optional_ids_of(identifiers, name, faults))


def optional_ids_of(
    identifiers: Sequence[str | int | None], name: str, faults: Faults
) -> list[str | None]:
    """Bring ids to text, None staying None; find integers of more than 256 digits.

    The decoder has checked the length of ids that came as text.
    """
    if int not in set(map(type, identifiers)):
        return cast(list[str | None], identifiers)
    texts = [None if x is None else text_of(x) for x in identifiers]
    for row, text in enumerate(texts):
        if text is not None and len(text) > ID_MAX_CHARACTERS:
            faults[row] = too_long(name)
    return texts


def check_keys(records: Sequence[Record], customers: list[str], faults: Faults) -> None:
    """Find records whose key, where they have one, names another customer than the value."""
    named = "\0".join(customers)
    keys = b"\0".join([record.key or b"" for record in records])
    if keys == named.encode() and named.count("\0") == len(customers) - 1:
        return
    for row, (record, customer) in enumerate(zip(records, customers, strict=True)):
        if record.key is not None and record.key != customer.encode():
            error = "the key names another customer than the value's customer_id"
            faults[row] = (Reason.KEY_MISMATCH, error)


def check_times(ts_ms: NDArray[np.int64], now_ms: int, faults: Faults) -> None:
    """Find event times before the year 2000 or too far ahead of the clock."""
    outside = (ts_ms < EARLIEST_TS_MS) | (ts_ms > now_ms + AHEAD_MAX_MS)
    if not outside.any():
        return
    for row in np.flatnonzero(outside).tolist():
        early = ts_ms[row] < EARLIEST_TS_MS
        wrong = "before the year 2000" if early else "more than a day ahead of the clock"
        error = f"ts is {ts_ms[row]} milliseconds since the epoch, {wrong}"
        faults[row] = (Reason.TIMESTAMP_OUT_OF_RANGE, error)


def times_of(timestamps: Sequence[int | datetime]) -> NDArray[np.int64]:
    """Bring times to milliseconds since the Unix epoch."""
    if set(map(type, timestamps)) <= {int}:
        return np.fromiter(cast(Sequence[int], timestamps), np.int64, len(timestamps))
    return np.fromiter(map(milliseconds_of, timestamps), np.int64, len(timestamps))


def codes_of(names: Iterable[str | None], codes: Mapping[str | None, int]) -> NDArray[np.uint8]:
    """Replace each name by its code."""
    return np.frombuffer(bytearray([codes[name] for name in names]), np.uint8)


def floats_of(values: Sequence[float | None], absent: float) -> NDArray[np.float64]:
    """Return numbers with `absent` where there is None."""
    filled = [absent if value is None else value for value in values]
    return np.fromiter(filled, np.float64, len(filled))
