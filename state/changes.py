"""What was changed in a table of rows and is not durable yet."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from state.slots import CLEAN, DIRTY, IN_FLIGHT, SlotTable
from state.snapshot import RowsSnapshot, encode_keys


class Changes:
    """Dirty rows and deletions, and those of them that are in flight: in a snapshot.

    Parameters
    ----------
    table
        Whose rows these are; its states are changed here.
    """

    def __init__(self, table: SlotTable) -> None:
        self._table = table
        self._deleted: dict[str, None] = {}
        self._deleted_in_flight: dict[str, None] = {}
        self._is_in_flight = False

    @property
    def dirty_count(self) -> int:
        """Number of rows changed since the last snapshot."""
        return int(np.count_nonzero(self._table.states == DIRTY))

    @property
    def is_empty(self) -> bool:
        """Whether everything is durable."""
        return not (self._is_in_flight or self._deleted or self.dirty_count)

    def has_deleted(self, key: str) -> bool:
        """Tell whether `key` was deleted and the cold store may not know yet."""
        return key in self._deleted or key in self._deleted_in_flight

    def delete(self, keys: Iterable[str]) -> None:
        """Have the next snapshot name `keys`, none of which has a row, as deleted."""
        self._deleted.update(dict.fromkeys(keys))

    def undelete(self, keys: Iterable[str]) -> None:
        """Have the next snapshot not name `keys`, which have rows again, as deleted."""
        for key in keys if self._deleted else ():
            self._deleted.pop(key, None)

    def mark(self, slots: NDArray[np.int64]) -> None:
        """Have the next snapshot hold the rows in `slots`."""
        self._table.states[slots] = DIRTY

    def take_snapshot(self) -> RowsSnapshot:
        """Copy what changed; it is in flight until `settle`.

        Raises
        ------
        RuntimeError
            When the last snapshot was not settled.
        """
        if self._is_in_flight:
            raise RuntimeError("a snapshot is in flight already: settle() it first")
        table = self._table
        slots = np.flatnonzero(table.states == DIRTY)
        snapshot = RowsSnapshot(
            encode_keys(table.keys_of(slots)),
            table.raw[slots].tobytes(),
            table.data.itemsize,
            encode_keys(self._deleted),
        )
        table.states[slots] = IN_FLIGHT
        self._deleted_in_flight, self._deleted = self._deleted, {}
        self._is_in_flight = True
        return snapshot

    def settle(self) -> None:
        """Call clean what is in flight and was not changed since.

        Raises
        ------
        RuntimeError
            When no snapshot is in flight.
        """
        if not self._is_in_flight:
            raise RuntimeError("no snapshot is in flight: take_snapshot() comes first")
        states = self._table.states
        states[states == IN_FLIGHT] = CLEAN
        self._deleted_in_flight = {}
        self._is_in_flight = False
