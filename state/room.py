"""The cap on rows in memory: who leaves when it is reached, and when nobody can."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from state.errors import RowsFullError
from state.slots import CLEAN, FREE, SlotTable
from state.snapshot import encode_keys

Pinned = Callable[[NDArray[np.void]], NDArray[np.bool_]]
"""Is given rows, a structured array of shape (n,), and says which must stay: bool, shape (n,)."""

# When rows must leave, a sixteenth of the cap leaves beyond the need, so that looking for them
# is rare.
SPARE_SHARE = 16

NO_SLOTS = np.zeros(0, np.int64)


class ColdRows(Protocol):
    """A store of rows by key; `state.partition.Partition` is one."""

    def read_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Return the stored row of each UTF-8 key, None where there is none."""


class Room:
    """Keeps a table of rows under its cap by evicting rows that can be read back.

    Those not used for the longest time leave first. Only clean rows do, and none that is pinned.

    Parameters
    ----------
    table
        Whose rows these are; its ticks are set here.
    max_rows
        The cap, ≥ 1.
    cold
        Where rows can be read back from; None when none may leave.
    pinned
        None when any row may leave.

    Attributes
    ----------
    has_cold
        Whether there may be stored rows that are not in the table.
    """

    def __init__(
        self, table: SlotTable, max_rows: int, cold: ColdRows | None, pinned: Pinned | None
    ) -> None:
        self._table = table
        self._max_rows = max_rows
        self._cold = cold
        self._pinned = pinned
        self._tick = 0
        self.has_cold = False

    def note_cold(self) -> None:
        """Say that there are stored rows that are not in the table.

        Raises
        ------
        ValueError
            When there is no cold store.
        """
        if self._cold is None:
            raise ValueError("these rows have no cold store to be read back from")
        self.has_cold = True

    def read_cold(self, keys: list[str]) -> dict[str, bytes]:
        """Return the stored rows of those of `keys` that have one."""
        if self._cold is None or not keys:
            return {}
        rows = self._cold.read_many(encode_keys(keys))
        return {key: row for key, row in zip(keys, rows, strict=True) if row is not None}

    def touch(self, slots: NDArray[np.int64]) -> None:
        """Call the rows in `slots` the ones used last."""
        self._tick += 1
        self._table.ticks[slots] = self._tick

    def fits(self, wanted: int) -> bool:
        """Tell whether `wanted` rows can be added without evicting any."""
        return len(self._table) + wanted <= self._max_rows

    def make(self, wanted: int, keep: NDArray[np.int64]) -> None:
        """See that `wanted` rows can be added; evict others, but none in the slots `keep`.

        Raises
        ------
        RowsFullError
            When too few can leave; then none did.
        """
        excess = len(self._table) + wanted - self._max_rows
        if excess <= 0:
            return
        if self._cold is None:
            raise RowsFullError(
                f"{len(self._table) + wanted} customers do not fit under the cap of "
                f"{self._max_rows} rows: raise the cap, or spread the customers over more workers"
            )
        self.touch(keep)
        others = self._table.ticks < self._tick
        clean = others & (self._table.states == CLEAN)
        leaving = least_recently_used(
            self._table, clean, excess + self._max_rows // SPARE_SHARE, self._pinned
        )
        if len(leaving) < excess:
            raise self._full(wanted, excess, others)
        self._table.free(leaving)
        self.has_cold = True

    def choose(self, fresh: NDArray[np.int64], rows: NDArray[np.void]) -> NDArray[np.int64]:
        """Choose which stored rows come into the table where not all may fit; make room for them.

        All pinned ones come. Others come only until the cap is reached for the first time.

        Parameters
        ----------
        fresh
            Positions in `rows` of those that are not in the table.
        rows
            Structured rows.

        Returns
        -------
        Those of `fresh` that come.

        Raises
        ------
        RowsFullError
            When there is no room for the pinned ones, or nowhere to leave the others.
        """
        if self._cold is None:
            self.make(len(fresh), NO_SLOTS)
        must_come = np.zeros(len(fresh), np.bool_)
        if self._pinned is not None and len(fresh):
            must_come[:] = self._pinned(rows[fresh])
        coming, others = fresh[must_come], fresh[~must_come]
        room = 0 if self.has_cold else self._max_rows - len(self._table) - len(coming)
        self.make(len(coming), NO_SLOTS)
        others_coming = others[: max(0, room)]
        self.has_cold |= len(others_coming) < len(others)
        return np.concatenate([coming, others_coming])

    def _full(self, wanted: int, excess: int, others: NDArray[np.bool_]) -> RowsFullError:
        """Tell why there is no room for `wanted` more rows, `excess` of which are too many."""
        states = self._table.states
        could_leave = least_recently_used(
            self._table, others & (states != FREE), excess, self._pinned
        )
        if len(could_leave) == excess:
            waiting = int(np.count_nonzero(states > CLEAN))
            return RowsFullError(
                f"{wanted} more customers do not fit under the cap of {self._max_rows} rows "
                f"while {waiting} rows wait for a checkpoint: take one, or raise the cap",
                checkpoint_helps=True,
            )
        return RowsFullError(
            f"{wanted} more customers do not fit under the cap of {self._max_rows} rows beside "
            "those in use or pinned: raise the cap, or spread the customers over more workers"
        )


def least_recently_used(
    table: SlotTable, among: NDArray[np.bool_], most: int, pinned: Pinned | None
) -> NDArray[np.int64]:
    """Choose up to `most` slots, those with the lowest ticks, whose rows are not pinned.

    Costs a pass over the slots and a selection, not a sort; `pinned` is asked about as few rows
    as possible.

    Parameters
    ----------
    table
        Nothing in it is changed.
    among
        Which slots may be chosen at all, shape (capacity,).
    most
        At least 0.
    pinned
        None when no row is.

    Returns
    -------
    int64 slots, distinct, longest unused first; fewer than `most` only where there are no more.

    Examples
    --------
    >>> table = SlotTable(np.dtype([("owed", "u1")]), max_rows=4, initial_rows=4)
    >>> _ = table.add(["ada", "bob", "cleo"], state=CLEAN)
    >>> table.ticks[:3], table.data["owed"][:3] = [7, 5, 6], [0, 1, 0]
    >>> least_recently_used(table, table.states == CLEAN, 1, lambda rows: rows["owed"] == 1)
    array([2])
    """
    candidates = np.flatnonzero(among).astype(np.int64, copy=False)
    chosen = [NO_SLOTS]
    missing = step = most
    while missing > 0 and len(candidates):
        if step < len(candidates):
            order = np.argpartition(table.ticks[candidates], step)
            oldest, candidates = candidates[order[:step]], candidates[order[step:]]
        else:
            oldest, candidates = candidates, candidates[:0]
        if pinned is not None:
            oldest = oldest[~pinned(table.rows_in(oldest))]
        oldest = oldest[np.argsort(table.ticks[oldest], kind="stable")]
        chosen.append(oldest[:missing])
        missing -= len(chosen[-1])
        # Where most are pinned, ever larger steps keep the number of passes small.
        step *= 2
    return np.concatenate(chosen)
