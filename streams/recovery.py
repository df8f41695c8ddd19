"""A partition's rows back from the changelog: in pages, straight into the store and into memory.

The changelog is read under ``read_committed``, up to where it ended when the reading began. Each
checkpoint is one transaction, so that end is the end of a whole checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from state.changelog import decode_page
from state.partition import ChangelogPosition, Partition
from state.records import PROGRESS_KEY
from state.rows import KeyedRows
from streams.errors import BrokerUnavailableError, ForeignStateError, HangingTransactionError
from streams.steps import OnStep, Step
from streams.threads import in_thread
from streams.topics import CHANGELOG

if TYPE_CHECKING:
    from streams.settings import Settings

log = logging.getLogger(__name__)

FETCH_MS = 200
PARTITION_FETCH_BYTES = 8 << 20
PAGE_RECORDS = 20_000
STALLED_SECONDS = 30.0
CONFIRM_MS = 3_600_000
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a partition of the changelog starts and ends, and how long it keeps tombstones.

    Attributes
    ----------
    start, end
        The first offset, and the one after the last of a checkpoint.
    tombstones_ms
        How long the deletion of a row can be read, ms.
    taken_ms
        When the above was asked for, ms since the epoch.
    """

    start: int
    end: int
    tombstones_ms: int
    taken_ms: int

    def complaint(self, position: ChangelogPosition | None) -> str | None:
        """Tell why a local state at `position` cannot be brought up to date; None if it can.

        Parameters
        ----------
        position
            None for a state without any row.

        Examples
        --------
        >>> bounds = Bounds(start=100, end=900, tombstones_ms=1000, taken_ms=5000)
        >>> bounds.complaint(ChangelogPosition(901, as_of_ms=5000, whole=True))
        'it is ahead of the changelog (at 901, which ends at 900)'
        >>> bounds.complaint(ChangelogPosition(900, as_of_ms=0, whole=True))
        """
        if position is None:
            return None
        at = position.offset
        if at > self.end:
            return f"it is ahead of the changelog (at {at}, which ends at {self.end})"
        if at < self.start:
            return f"it is older than the changelog (at {at}, which starts at {self.start})"
        age_ms = self.taken_ms - position.as_of_ms
        # One's own last checkpoint ends one offset below, before the mark of its commit.
        if at + 1 < self.end and age_ms > self.tombstones_ms:
            return (
                f"it is {age_ms / 3_600_000:.0f} hours old, and the changelog names erased "
                f"customers for {self.tombstones_ms / 3_600_000:.0f} hours only"
            )
        return None


class ChangelogReader:
    """Reads one partition of the changelog into a store; use as ``async with reader_of(…)``."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        tp: TopicPartition,
        layout: np.dtype[np.void],
        on_step: OnStep,
    ) -> None:
        self._consumer = consumer
        self._tp = tp
        self._layout = layout
        self._on_step = on_step

    async def bounds(self, tombstones_ms: int) -> Bounds:
        """Return where the partition starts and ends now."""
        taken_ms = int(time.time() * 1000)
        starts = await self._consumer.beginning_offsets([self._tp])
        ends = await self._consumer.end_offsets([self._tp])
        return Bounds(starts[self._tp], ends[self._tp], tombstones_ms, taken_ms)

    async def read(
        self,
        store: Partition,
        rows: KeyedRows | None,
        bounds: Bounds,
        on_progress: Callable[[float], None],
    ) -> int:
        """Bring `store`, and `rows` loaded from it, to the end of `bounds`; return records read.

        Raises
        ------
        BrokerUnavailableError
            Where nothing comes for half a minute.
        StateError
            Where a record cannot be read, or the disk fails.
        """
        known = store.changelog_position
        # A rebuild that is broken off and taken up again is as old as its beginning.
        as_of_ms = bounds.taken_ms if known is None else known.as_of_ms
        start = at = bounds.start if known is None else known.offset
        self._consumer.seek(self._tp, start)
        count, moved = 0, time.monotonic()
        told = moved
        while at < bounds.end:
            records = await self._fetch()
            before, at = at, await self._consumer.position(self._tp)
            now = time.monotonic()
            if at > before:
                moved = now
                is_whole = at >= bounds.end and _ends_a_checkpoint(records)
                as_of_ms = bounds.taken_ms if at >= bounds.end else as_of_ms
                await self._take_in(store, rows, records, ChangelogPosition(at, as_of_ms, is_whole))
                count += len(records)
                self._on_step(Step.CHANGELOG_PAGE, self._tp.partition)
            elif now - moved > STALLED_SECONDS:
                raise BrokerUnavailableError(f"the changelog fell silent at offset {at}")
            share = (at - start) / max(1, bounds.end - start)
            on_progress(min(1.0, share))
            if now - told > PROGRESS_SECONDS:
                told = now
                log.info("partition %d: %.0f %% recovered", self._tp.partition, 100 * share)
        await self._confirm(store, bounds)
        return count

    async def _confirm(self, store: Partition, bounds: Bounds) -> None:
        """Note now and then that nothing was missed, where nothing has happened for long."""
        known = store.changelog_position
        often_ms = min(CONFIRM_MS, bounds.tombstones_ms // 4)
        if known is not None and known.whole and bounds.taken_ms - known.as_of_ms > often_ms:
            nothing = decode_page([], [], self._layout)
            position = replace(known, as_of_ms=bounds.taken_ms)
            await in_thread(store.take_in, nothing, position)

    async def _fetch(self) -> list[Any]:
        fetched = await self._consumer.getmany(
            self._tp, timeout_ms=FETCH_MS, max_records=PAGE_RECORDS
        )
        return list(fetched.get(self._tp, ()))

    async def _take_in(
        self,
        store: Partition,
        rows: KeyedRows | None,
        records: list[Any],
        position: ChangelogPosition,
    ) -> None:
        page = decode_page(
            [record.key for record in records], [record.value for record in records], self._layout
        )
        await in_thread(store.take_in, page, position)
        if rows is not None:
            rows.take_in(page)


def _ends_a_checkpoint(records: Sequence[Any]) -> bool:
    """Tell whether the last record is a marker; without any record nothing new has begun."""
    return not records or records[-1].key == PROGRESS_KEY


def _consumer(settings: Settings, isolation_level: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers(),
        client_id=settings.app_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=isolation_level,
        fetch_max_wait_ms=FETCH_MS,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
        **settings.client_security(),
    )


async def require_settled(settings: Settings, number: int, bounds: Bounds) -> None:
    """Refuse a changelog whose end is hidden by a transaction, though all its writers are fenced.

    A broker that crashed can have forgotten to write the end of a transaction that it has
    acknowledged (Kafka 4.3, when the only replica comes back). To go on from what can be read
    would be to do over what was done.

    Raises
    ------
    HangingTransactionError
        Where there is such a transaction.
    """
    tp = TopicPartition(CHANGELOG.name_of(settings), number)
    consumer = _consumer(settings, "read_uncommitted")
    try:
        await consumer.start()
        end = (await consumer.end_offsets([tp]))[tp]
    finally:
        await consumer.stop()
    if end > bounds.end:
        raise HangingTransactionError(
            f"{tp.topic}-{number} ends at {end}, and a transaction that its broker does not end "
            f"hides all from {bounds.end} on: see kafka-transactions.sh find-hanging"
        )


@asynccontextmanager
async def reader_of(
    settings: Settings, number: int, layout: np.dtype[np.void], on_step: OnStep
) -> AsyncIterator[ChangelogReader]:
    """Open a reader of partition `number` of the changelog."""
    tp = TopicPartition(CHANGELOG.name_of(settings), number)
    consumer = _consumer(settings, "read_committed")
    try:
        await consumer.start()
        consumer.assign([tp])
        yield ChangelogReader(consumer, tp, layout, on_step)
    finally:
        await consumer.stop()


def require_copied(store: Partition, number: int) -> None:
    """Refuse a state that was made without a changelog: rebuilding it would lose it.

    Raises
    ------
    ForeignStateError
        Where the store holds rows that no changelog knows.
    """
    if store.changelog_position is None and store.progress.offsets:
        raise ForeignStateError(
            f"the state of partition {number} was never copied to the changelog: go on without "
            "one (changelog=false), or remove the state to start anew"
        )
