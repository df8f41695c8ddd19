"""An open partition: rows, offsets, watermark and outbox that move together in one call.

`apply` is that call. It never awaits, so nothing can come between the rows it changes, the
outputs it decides and the offset it moves; a checkpoint then makes all of them durable or none.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from state.partition import Partition, Progress
from state.rows import KeyedRows, RowsSnapshot
from streams import watermarks
from streams.batches import Batch, OutputRecord, Sweep, select
from streams.dead_letters import dead_letter
from streams.decode import FORWARDED_HEADER
from streams.deduplication import take_fresh
from streams.errors import StreamsError
from streams.lists import OwedLists
from streams.metrics import Metrics
from streams.models import Models
from streams.outbox import Outbox, Output
from streams.outcomes.profile import features_many
from streams.partitioner import partitions_of
from streams.records import Record
from streams.rejects import Reason, Reject, reject
from streams.settings import Settings
from streams.sources import EVENT_TOPICS, SOURCES, Source
from streams.transport import Chunk


class HoleError(Exception):
    """A chunk starts beyond the next offset to apply: the consumer must seek back."""


class SweepError(StreamsError):
    """An outcome raised while looking at every customer: no single record is to blame."""


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
    ) -> None:
        self.number = number
        self.store = store
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
        self._sweep_interval_ms = settings.sweep_every_hours * 3_600_000
        self._lateness_ms = settings.allowed_lateness_seconds * 1000
        owed = rows.occupied()
        owed = owed[rows.data["recommendations"]["lists"]["owed"][owed] > 0]
        self.lists.owe(owed, len(rows.data))

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
        self.ends[chunk.topic] = max(chunk.highwater, self.ends.get(chunk.topic, 0))
        self.changed = True
        self._apply_records(source, self._without_poison(source, records, now_ms), now_ms)
        self.progress.offsets[chunk.topic] = chunk.end
        if source.has_events:
            self._pass_time()
        return len(records)

    def _apply_records(self, source: Source, records: Sequence[Record], now_ms: int) -> None:
        decoded = source.decode(records, now_ms)
        for refused in decoded.rejects:
            self._bury(source, refused, now_ms)
        columns = self._keep_home(source, decoded.columns, records, now_ms)
        if not len(columns):
            return
        if not source.has_events:
            self._apply_columns(source, columns)
            return
        runs = watermarks.runs_between_boundaries(columns.ts_ms, self._sweep_interval_ms)
        for position, run in enumerate(runs):
            part = columns if len(runs) == 1 else select(columns, run)
            self._apply_columns(source, part)
            if position < len(runs) - 1:
                self._pass_time()

    def _apply_columns(self, source: Source, columns: Any) -> None:
        if not source.has_events and columns.tombstone.any():
            columns = self._erase(columns)
            if not len(columns):
                return
        slots = self.rows.claim(columns.customers)
        self.rows.mark_dirty(slots)
        rows = self.rows.data
        if source.has_events:
            self._note_time(source.topic, columns.ts_ms)
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
        if source.has_events:
            self.lists.owe(slots, len(rows))
        self._metrics.events.labels(source.topic).inc(len(columns))

    def _note_time(self, topic: str, ts_ms: NDArray[np.int64]) -> None:
        late = int((ts_ms < self.progress.watermark_ms).sum())
        if late:
            self._metrics.late.labels(topic).inc(late)
        newest = self.progress.max_ts_ms
        newest[topic] = max(newest.get(topic, 0), int(ts_ms.max()))

    def _pass_time(self) -> None:
        """Move the watermark; look at every customer where it crossed a boundary."""
        watermarks.advance(self.progress, self.ends, EVENT_TOPICS, self._lateness_ms)
        boundary_ms = watermarks.sweep_due(self.progress, self._sweep_interval_ms)
        if boundary_ms is None:
            return
        rows, as_of_ms = self.rows.data, self.now_event_ms
        slots = self.rows.occupied()
        slots = slots[rows["profile"]["last_seen_ts"][slots] > 0]
        if not len(slots):
            return
        features = features_many(rows, slots, as_of_ms)
        sweep = Sweep(
            self.number, rows, slots, self.rows.keys_of(slots), features, as_of_ms, boundary_ms
        )
        try:
            for outcome in self._models.outcomes:
                self.emit(outcome.on_sweep(sweep))
        except Exception as error:
            raise SweepError(f"the sweep of partition {self.number} raised: {error!r}") from error
        self.rows.mark_dirty(slots)

    @property
    def now_event_ms(self) -> int:
        """The newest event time seen in this partition, ms; 0 before any event."""
        return max(self.progress.max_ts_ms.values(), default=0)

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
        self, source: Source, records: Sequence[Record], now_ms: int
    ) -> Sequence[Record]:
        """Turn records that made `apply` raise before into dead letters."""
        if not self._poison:
            return records
        healthy = []
        for position, record in enumerate(records):
            why = self._poison.get((source.topic, record.offset))
            if why is None:
                healthy.append(record)
            else:
                refused = reject(
                    record, position, Reason.APPLY_RAISED, why.strip().rpartition("\n")[2]
                )
                self._bury(source, refused, now_ms, why)
        return healthy

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

    def pay_lists(self, most: int, now_ms: int) -> int:
        """Make up to `most` lists that are due; return how many customers were served."""
        columns = self.rows.data["recommendations"]["lists"]
        slots = self.lists.take(columns, most)
        if not len(slots):
            return 0
        records = self._models.recommendations.lists_for(
            self.rows.data,
            slots,
            self.rows.keys_of(slots),
            partition=self.number,
            ts_ms=now_ms,
        )
        self.emit(records)
        self.rows.mark_dirty(slots)
        self.changed = True
        return len(slots)

    def take_snapshot(self) -> tuple[RowsSnapshot, Progress]:
        """Copy what a checkpoint is to make durable."""
        self.changed = False
        progress = replace(
            self.progress,
            offsets=dict(self.progress.offsets),
            max_ts_ms=dict(self.progress.max_ts_ms),
        )
        return self.rows.take_snapshot(), progress

    def lists_owed(self) -> int:
        """Count the customers who are owed a list."""
        return int(np.count_nonzero(self.rows.data["recommendations"]["lists"]["owed"]))


def misplaced(record: Record, position: int) -> Reject:
    """Refuse a record that was forwarded and is still not where its customer belongs."""
    text = "forwarded once and still in a partition that is not its customer's"
    return reject(record, position, Reason.MISPLACED, text)


def describe_failure(error: BaseException) -> str:
    """Return an error's traceback as text, for a dead letter."""
    return "".join(traceback.format_exception(error))[-4000:]
