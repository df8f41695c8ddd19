"""An open partition: rows, offsets, watermark and outbox that move together in one call.

`apply` is that call. It never awaits, so nothing can come between the rows it changes, the
outputs it decides and the offset it moves; a checkpoint then makes all of them durable or none.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from state.partition import Partition, Progress
from state.rows import KeyedRows, RowsSnapshot
from streams import watermarks
from streams.batches import Batch, OutputRecord, select
from streams.changelog import TransactionalProducer
from streams.dead_letters import dead_letter
from streams.deduplication import take_fresh
from streams.lists import OwedLists
from streams.metrics import Metrics
from streams.models import Models
from streams.outbox import Outbox, Output
from streams.parsing import FORWARDED_HEADER
from streams.partitioner import partitions_of
from streams.records import Record
from streams.rejects import Reason, Reject, reject
from streams.settings import Settings
from streams.sources import SOURCES, Source
from streams.sweeps import Sweeps
from streams.transport import Chunk


class HoleError(Exception):
    """A chunk starts beyond the next offset to apply: the consumer must seek back."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint makes durable: changed rows, how far they have got, and outputs."""

    rows: RowsSnapshot
    progress: Progress
    outputs: dict[tuple[str, int], list[Output]]
    outputs_bytes: int

    @property
    def size(self) -> int:
        """About how many bytes a checkpoint of it writes."""
        return len(self.rows.rows) + self.outputs_bytes


def owed(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which customers are owed a list; their rows stay in memory until it is paid."""
    marks: NDArray[np.uint8] = rows["recommendations"]["lists"]["owed"]
    return marks > 0


class OpenPartition:
    """The state of one source partition number while this worker owns it.

    Parameters
    ----------
    number
        The partition number, the same in every source topic.
    store
        Its state on disk.
    rows, progress
        The state in memory, as just loaded.
    ends
        The end offset of each source topic as last known.
    models, settings, metrics
        The worker's.
    poison
        Offsets, by topic, whose record made `apply` raise before: they become dead letters.
    producer
        Writes its checkpoints to the changelog; None where there is none.
    """

    def __init__(
        self,
        number: int,
        store: Partition,
        rows: KeyedRows,
        progress: Progress,
        ends: dict[str, int],
        *,
        models: Models,
        settings: Settings,
        metrics: Metrics,
        poison: dict[tuple[str, int], str],
        producer: TransactionalProducer | None = None,
    ) -> None:
        self.number = number
        self.store = store
        self.producer = producer
        self.rows = rows
        self.progress = progress
        self.durable = dict(progress.offsets)
        self.ends = ends
        self.outbox = Outbox()
        self.lists = OwedLists(settings.recommend_every_seconds, time.monotonic)
        self.is_open = False
        self.is_seeking = False
        self.changed = False
        self._models = models
        self._settings = settings
        self._metrics = metrics
        self._poison = poison
        self.sweeps = Sweeps(number, store, rows, progress, models, settings, self.emit)
        occupied = rows.occupied()
        self.lists.owe(occupied[owed(rows.data)[occupied]], len(rows.data))

    def lags(self) -> dict[str, int]:
        """Return how many records of each source topic are not applied yet, as far as known."""
        offsets = self.progress.offsets
        return {topic: max(0, end - offsets.get(topic, 0)) for topic, end in self.ends.items()}

    def apply(self, chunk: Chunk, now_ms: int) -> int:
        """Apply what of `chunk` is not applied yet; return how many records that were.

        Parameters
        ----------
        chunk
            Records of one of the source topics and this partition.
        now_ms
            The clock, ms since the epoch.

        Raises
        ------
        HoleError
            Where the chunk starts beyond the next offset.
        RowsFullError
            Where there is no room for the chunk's customers; nothing was changed then.
        Exception
            What an outcome raised; the partition must then be reopened.
        """
        next_offset = self.progress.offsets.get(chunk.topic, 0)
        if chunk.end <= next_offset:
            return 0
        if chunk.start > next_offset:
            raise HoleError(f"{chunk.topic}-{chunk.partition}: {next_offset} to {chunk.start}")
        records: Sequence[Record] = chunk.records
        if chunk.start < next_offset:
            records = [record for record in records if record.offset >= next_offset]
        source = SOURCES[chunk.topic]
        healthy, poisoned = self._without_poison(source, records)
        decoded = source.decode(healthy, now_ms)
        self._make_room(decoded.columns.customers)
        # From here on things change: whatever raises, the partition must be reopened.
        self.ends[chunk.topic] = max(chunk.highwater, self.ends.get(chunk.topic, 0))
        self.changed = True
        for refused, why in poisoned:
            self._bury(source, refused, now_ms, why)
        for refused in decoded.rejects:
            self._bury(source, refused, now_ms)
        self._apply_runs(source, self._keep_home(source, decoded.columns, healthy, now_ms))
        self.progress.offsets[chunk.topic] = chunk.end
        if source.moves_time:
            self.sweeps.pass_time(self.ends)
        return len(records)

    def _make_room(self, customers: list[str]) -> None:
        """Bring the customers' rows into memory, and see that all of them fit."""
        self.rows.reserve(customers)
        if self.rows.has_cold:
            here = self.rows.slots_of(customers)
            self.sweeps.catch_up(here[here >= 0])

    def _apply_runs(self, source: Source, columns: Any) -> None:
        """Apply events run by run, so that a boundary of event time is crossed between two."""
        if not len(columns):
            return
        if not source.moves_time:
            self._apply_columns(source, columns)
            return
        runs = watermarks.runs_between_boundaries(columns.ts_ms, self.sweeps.interval_ms)
        for position, run in enumerate(runs):
            part = columns if len(runs) == 1 else select(columns, run)
            self._apply_columns(source, part)
            if position < len(runs) - 1:
                self.sweeps.pass_time(self.ends)

    def _apply_columns(self, source: Source, columns: Any) -> None:
        if not source.has_events and columns.tombstone.any():
            columns = self._erase(columns)
            if not len(columns):
                return
        slots = self.rows.claim(columns.customers)
        self.rows.mark_dirty(slots)
        rows = self.rows.data
        rows["swept_ms"][slots] = self.progress.sweep_ms
        if source.moves_time:
            self._note_time(source.topic, columns.ts_ms)
        if source.has_events:
            fresh = take_fresh(rows["seen"], source.topic, slots, columns.event_keys)
            if not fresh.all():
                self._metrics.duplicates.labels(source.topic).inc(int((~fresh).sum()))
                chosen = np.flatnonzero(fresh)
                columns, slots = select(columns, chosen), slots[chosen]
        if not len(columns):
            return
        batch = Batch(source.topic, self.number, columns, rows, slots)
        for outcome in self._models.outcomes:
            self.emit(source.tell(outcome, batch))
        # An event that calls for a list marks its row; of attributes, consent alone does.
        marked = rows["recommendations"]["lists"]["owed"][slots] > 0
        self.lists.owe(slots[marked], len(rows))
        self._metrics.events.labels(source.topic).inc(len(columns))

    def _note_time(self, topic: str, ts_ms: NDArray[np.int64]) -> None:
        late = int((ts_ms < self.progress.watermark_ms).sum())
        if late:
            self._metrics.late.labels(topic).inc(late)
        newest = self.progress.max_ts_ms
        newest[topic] = max(newest.get(topic, 0), int(ts_ms.max()))

    @property
    def now_event_ms(self) -> int:
        """The newest event time seen in this partition, ms; 0 before any event."""
        return self.sweeps.now_event_ms

    def _erase(self, columns: Any) -> Any:
        """Apply customers' records in order: a tombstone removes the row as it is by then."""
        last_tombstone = {
            columns.customers[position]: position
            for position in np.flatnonzero(columns.tombstone).tolist()
        }
        self.rows.remove(last_tombstone)
        kept = [
            position
            for position, customer in enumerate(columns.customers)
            if position > last_tombstone.get(customer, -1)
        ]
        return select(columns, np.array(kept, np.int64))

    def _keep_home(
        self, source: Source, columns: Any, records: Sequence[Record], now_ms: int
    ) -> Any:
        """Forward the records of customers who belong in another partition; return the rest."""
        strangers = np.flatnonzero(self.rows.slots_of(columns.customers) < 0)
        if not len(strangers):
            return columns
        customers = [columns.customers[position] for position in strangers.tolist()]
        home = partitions_of(customers, self._settings.partitions)
        astray = strangers[home != self.number]
        if not len(astray):
            return columns
        homes = home[home != self.number]
        for position, target in zip(astray.tolist(), homes.tolist(), strict=True):
            record = records[int(columns.positions[position])]
            if columns.already_forwarded[position]:
                self._bury(source, misplaced(record, int(columns.positions[position])), now_ms)
            else:
                self._forward(source, columns.customers[position], record, target)
        return select(columns, np.setdiff1d(np.arange(len(columns)), astray))

    def _forward(self, source: Source, customer: str, record: Record, target: int) -> None:
        self._metrics.forwarded.labels(source.topic).inc()
        headers = [*record.headers, (FORWARDED_HEADER, str(self.number).encode())]
        output = Output(customer.encode(), record.value, headers=headers)
        self.outbox.add(source.topic, target, output)

    def _without_poison(
        self, source: Source, records: Sequence[Record]
    ) -> tuple[Sequence[Record], list[tuple[Reject, str]]]:
        """Part the records that made `apply` raise before from the others; say why they did."""
        if not self._poison:
            return records, []
        healthy: list[Record] = []
        poisoned: list[tuple[Reject, str]] = []
        for position, record in enumerate(records):
            why = self._poison.get((source.topic, record.offset))
            if why is None:
                healthy.append(record)
            else:
                text = why.strip().rpartition("\n")[2]
                poisoned.append((reject(record, position, Reason.APPLY_RAISED, text), why))
        return healthy, poisoned

    def _bury(self, source: Source, refused: Reject, now_ms: int, trace: str | None = None) -> None:
        labels = (source.topic, str(refused.stage), str(refused.reason))
        self._metrics.rejected.labels(*labels).inc()
        _, letter = dead_letter(
            topic=source.topic,
            partition=self.number,
            offset=refused.offset,
            key=refused.key,
            value=refused.value,
            reason=refused.reason,
            error=refused.error,
            ts_ms=now_ms,
            traceback=trace,
        )
        self.outbox.add("dead-letters", 0, Output(source.topic.encode(), letter))

    def emit(self, outputs: Sequence[OutputRecord]) -> None:
        """Put what outcomes want published into the outbox, in this partition's number."""
        for output in outputs:
            if output.topic == "alerts":
                alert = output.record
                self._metrics.alerts.labels(alert["kind"], alert["severity"]).inc()
            self.outbox.add(
                output.topic,
                self.number,
                Output(output.customer_id.encode(), orjson.dumps(output.record), output.caused_ms),
            )

    def walk_cold(self) -> bool:
        """Sweep some customers whose rows are on disk; return whether there are more now."""
        try:
            is_moving, has_changed = self.sweeps.walk()
        except BaseException:
            self.is_open = False  # so that no checkpoint keeps half of it
            raise
        self.changed = self.changed or has_changed
        return is_moving

    def catch_up(self) -> None:
        """Sweep whoever was on disk at the last boundary and is in memory now."""
        self.changed = self.sweeps.catch_up(self.rows.occupied()) or self.changed

    def pay_lists(self, most: int, now_ms: int, *, wide: bool = True) -> int:
        """Make up to `most` lists that are due; return how many customers were served.

        `wide` says whether they are looked for among all candidates, or among fewer.
        """
        columns = self.rows.data["recommendations"]["lists"]
        slots = self.lists.take(columns, most)
        if not len(slots):
            return 0
        try:
            records = self._models.recommendations.lists_for(
                self.rows.data,
                slots,
                self.rows.keys_of(slots),
                partition=self.number,
                ts_ms=now_ms,
                as_of_ms=self.now_event_ms,
                wide=wide,
            )
            self.emit(records)
            self.rows.mark_dirty(slots)
        except BaseException:
            self.is_open = False  # the marks are taken: no checkpoint may keep that
            raise
        self.changed = True
        return len(slots)

    def take_snapshot(self, *, with_outputs: bool) -> Snapshot:
        """Copy what a checkpoint is to make durable.

        Parameters
        ----------
        with_outputs
            Whether the outputs that wait in the outbox are taken out of it, into the snapshot.
        """
        self.changed = False
        progress = replace(
            self.progress,
            offsets=dict(self.progress.offsets),
            max_ts_ms=dict(self.progress.max_ts_ms),
        )
        outputs_bytes = self.outbox.waiting_bytes if with_outputs else 0
        outputs = self.outbox.take_waiting() if with_outputs else {}
        return Snapshot(self.rows.take_snapshot(), progress, outputs, outputs_bytes)

    def lists_owed(self) -> int:
        """Count the customers who are owed a list."""
        return int(np.count_nonzero(owed(self.rows.data)))


def misplaced(record: Record, position: int) -> Reject:
    """Refuse a record that was forwarded and is still not where its customer belongs."""
    text = "forwarded once and still in a partition that is not its customer's"
    return reject(record, position, Reason.MISPLACED, text)


def describe_failure(error: BaseException) -> str:
    """Return an error's traceback as text, for a dead letter."""
    return "".join(traceback.format_exception(error))[-4000:]
