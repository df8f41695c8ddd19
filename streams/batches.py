"""What an outcome is given, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.columns import PurchaseColumns, RecordColumns

C = TypeVar("C", bound=RecordColumns)


@dataclass(frozen=True, slots=True)
class Batch(Generic[C]):
    """Decoded events of one topic partition, each to be applied now and once.

    Attributes
    ----------
    topic, partition
        Where the events come from.
    columns
        The topic's columns; every per-event array has n entries, in offset order.
    rows
        The partition's customer rows, live: a structured array indexed by slot.
    slots
        int64 (n,): the row of each event's customer.
    """

    topic: str
    partition: int
    columns: C
    rows: NDArray[np.void]
    slots: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Customers of a partition at a moment of event time; all of them, but for late ones.

    Attributes
    ----------
    partition
        Its number.
    rows, slots
        The live rows, and which of them are customers (int64).
    customers
        The id of each slot's customer.
    features
        float32 (n, 12): see ``streams/outcomes/profile.py``.
    as_of_ms
        The newest event time the partition has seen: every row is as of then.
    boundary_ms
        The scheduled time of this sweep; part of the ids of what comes of it.
    is_late
        Whether these are some customers whose rows were on disk when the others were swept.
    """

    partition: int
    rows: NDArray[np.void]
    slots: NDArray[np.int64]
    customers: list[str]
    features: NDArray[np.float32]
    as_of_ms: int
    boundary_ms: int
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """One record that an outcome wants published.

    Attributes
    ----------
    topic
        An output topic of the contract.
    customer_id
        Its key.
    record
        The value, to be written as JSON.
    caused_ms
        The broker's timestamp of the event behind it, ms; 0 where no single event is.
    """

    topic: str
    customer_id: str
    record: Mapping[str, Any]
    caused_ms: int = 0


def trigger_of(batch: Batch[Any], position: int) -> dict[str, Any]:
    """Name the event at `position` of `batch` as the cause of an output."""
    return {
        "topic": batch.topic,
        "partition": batch.partition,
        "offset": int(batch.columns.offsets[position]),
        "event_id": batch.columns.event_ids[position],
    }


def select(columns: C, chosen: NDArray[np.int64]) -> C:
    """Return the rows of `columns` at the ascending positions `chosen`.

    Lines of orders follow their order.
    """
    if len(chosen) == len(columns):
        return columns
    parts: dict[str, Any] = {}
    if isinstance(columns, PurchaseColumns):
        parts = _select_lines(columns, chosen)
    for field in fields(columns):
        if field.name not in parts:
            parts[field.name] = _pick(getattr(columns, field.name), chosen)
    return type(columns)(**parts)


def _select_lines(columns: PurchaseColumns, chosen: NDArray[np.int64]) -> dict[str, Any]:
    renumbered = np.full(len(columns), -1, np.int32)
    renumbered[chosen] = np.arange(len(chosen), dtype=np.int32)
    events = renumbered[columns.line_event]
    lines = np.flatnonzero(events >= 0)
    names = ("line_items", "line_quantity", "line_price", "line_categories")
    parts = {name: _pick(getattr(columns, name), lines) for name in names}
    return {**parts, "line_event": events[lines]}


def _pick(values: Any, positions: NDArray[np.int64]) -> Any:
    if isinstance(values, np.ndarray):
        return values[positions]
    return [values[position] for position in positions.tolist()]
