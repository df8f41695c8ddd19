"""Looks at every customer of a partition at intervals of event time, wherever their row is.

A sweep takes the rows in memory at once, where the watermark crosses a boundary. Rows on disk are
swept late: when their customer's next event brings them into memory, before that event is
applied, or by a walk over the disk in small steps. A row says which boundary it was swept for
last, so each is swept once for the newest boundary, whichever comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from state.errors import RowsFullError
from state.partition import Partition, Progress
from state.rows import KeyedRows
from streams import watermarks
from streams.batches import OutputRecord, Sweep
from streams.errors import StreamsError
from streams.models import Models
from streams.outcomes.profile import features_many
from streams.settings import Settings
from streams.sources import TIMED_TOPICS

PAGE_ROWS = 500
"""Rows looked at in one step of the walk over the disk."""


class SweepError(StreamsError):
    """An outcome raised while looking at every customer: no single record is to blame."""


class Sweeps:
    """Event time of one partition, and the sweeps that it causes.

    Parameters
    ----------
    number, store, rows, progress, models, settings
        The partition's; the watermark and the last boundary are part of its progress.
    emit
        Takes what outcomes want published.
    """

    def __init__(
        self,
        number: int,
        store: Partition,
        rows: KeyedRows,
        progress: Progress,
        models: Models,
        settings: Settings,
        emit: Callable[[Sequence[OutputRecord]], None],
    ) -> None:
        self._number = number
        self._store = store
        self._rows = rows
        self._progress = progress
        self._models = models
        self._emit = emit
        self.interval_ms = settings.sweep_every_hours * 3_600_000
        self._lateness_ms = settings.allowed_lateness_seconds * 1000
        # A page must find room beside the rows in use.
        self._page_rows = max(1, min(PAGE_ROWS, rows.max_rows // 4))
        self._walked_to: bytes | None = None
        self._walking_for_ms = self._walked_for_ms = 0

    @property
    def now_event_ms(self) -> int:
        """The newest event time seen in this partition, ms; 0 before any event."""
        return max(self._progress.max_ts_ms.values(), default=0)

    def pass_time(self, ends: Mapping[str, int]) -> None:
        """Move the watermark; sweep the rows in memory where it crossed a boundary.

        Parameters
        ----------
        ends
            The last known end offset of each source topic.

        Raises
        ------
        SweepError
            Where an outcome raised.
        """
        watermarks.advance(self._progress, ends, TIMED_TOPICS, self._lateness_ms)
        started_ms = self._progress.sweep_ms
        boundary_ms = watermarks.sweep_due(self._progress, self.interval_ms)
        if self._progress.sweep_ms == started_ms:
            return
        slots = self._rows.occupied()
        self._rows.data["swept_ms"][slots] = self._progress.sweep_ms
        self._rows.mark_dirty(slots)
        if boundary_ms is not None:
            active = self._rows.data["profile"]["last_seen_ts"][slots] > 0
            self._sweep(slots[active], is_late=False)

    def catch_up(self, slots: NDArray[np.int64]) -> bool:
        """Sweep those of `slots` whose rows were on disk when the others were swept.

        Returns
        -------
        Whether there were any.

        Raises
        ------
        SweepError
            Where an outcome raised.
        """
        slots = np.unique(slots)
        slots = slots[self._is_behind(self._rows.data[["swept_ms", "profile"]][slots])]
        if len(slots):
            self._rows.data["swept_ms"][slots] = self._progress.sweep_ms
            self._rows.mark_dirty(slots)
            self._sweep(slots, is_late=True)
        return len(slots) > 0

    def walk(self) -> tuple[bool, bool]:
        """Take one step over the rows on disk.

        Returns
        -------
        Whether there is more to do, and whether anything was changed.

        Raises
        ------
        SweepError
            Where an outcome raised.
        StateError
            Where the disk failed.
        """
        if not self._rows.has_cold or self._walked_for_ms == self._progress.sweep_ms:
            return False, False
        if self._walked_to is None:
            self._walking_for_ms = self._progress.sweep_ms
        keys, values = self._store.read_page(self._walked_to, self._page_rows)
        if not keys:
            self._walked_to, self._walked_for_ms = None, self._walking_for_ms
            return False, False
        stored = np.frombuffer(b"".join(values), self._rows.dtype)
        behind = [keys[i].decode() for i in np.flatnonzero(self._is_behind(stored)).tolist()]
        try:
            # Those that are in memory tell by themselves whether they were swept there.
            slots = self._rows.find(behind)
        except RowsFullError:
            return True, False  # no room before the next checkpoint
        has_changed = self.catch_up(slots[slots >= 0])
        self._walked_to = keys[-1]
        return True, has_changed

    def _is_behind(self, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        behind: NDArray[np.bool_] = rows["swept_ms"] < self._progress.sweep_ms
        return behind & (rows["profile"]["last_seen_ts"] > 0)

    def _sweep(self, slots: NDArray[np.int64], *, is_late: bool) -> None:
        if not len(slots):
            return
        rows, as_of_ms = self._rows.data, self.now_event_ms
        sweep = Sweep(
            self._number,
            rows,
            slots,
            self._rows.keys_of(slots),
            features_many(rows, slots, as_of_ms),
            as_of_ms,
            self._progress.sweep_ms,
            is_late,
        )
        try:
            for outcome in self._models.outcomes:
                self._emit(outcome.on_sweep(sweep))
        except Exception as error:
            raise SweepError(f"the sweep of partition {self._number} raised: {error!r}") from error
