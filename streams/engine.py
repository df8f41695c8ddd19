"""The engine of one worker: which partitions are open, and what happens to a chunk.

There is one way back from any trouble: reopen. What a partition holds in memory is discarded, its
last checkpoint is loaded, and the consumer seeks to the offsets in it. First assignment, an
output that could not be written and an outcome that raised all end there; nothing is undone in
memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from faust.types import TP

from state.errors import RowsFullError, StateError
from state.partition import Identity, Partition, SharedOptions
from state.rows import KeyedRows
from streams.errors import ForeignStateError, PublishError
from streams.metrics import Metrics
from streams.models import Models
from streams.outbox import Publisher
from streams.partitions import HoleError, OpenPartition, describe_failure
from streams.reading import end_offset
from streams.settings import Settings
from streams.sources import SOURCES
from streams.transport import Chunk

log = logging.getLogger(__name__)

INITIAL_ROWS = 1024
MAX_WAITING_OUTPUTS = 20_000
"""A partition whose outbox holds more waits for the broker before it applies more."""


class Offsets(Protocol):
    """What the engine asks of the consumer."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the first offset still there."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the offset after the last record."""

    async def reposition(self, offsets: Mapping[TP, int]) -> None:
        """Seek."""


class Engine:
    """Opens partitions, applies chunks to them, checkpoints and reopens them.

    Parameters
    ----------
    settings
        The worker's.
    cluster_id
        Of the broker; state made on another cluster is refused.
    metrics
        Where everything is counted.
    publisher
        Who publishes outputs.

    Attributes
    ----------
    partitions
        By number; a partition that is being loaded is not in it yet.
    failure
        Set when the worker cannot go on; what it holds is the reason.
    """

    def __init__(
        self, settings: Settings, cluster_id: str, metrics: Metrics, publisher: Publisher
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.publisher = publisher
        self.models = Models(settings)
        self.partitions: dict[int, OpenPartition] = {}
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.wake = asyncio.Event()
        self.opened = asyncio.Event()
        self.last_progress = time.monotonic()
        self._consumer: Offsets | None = None
        self._cluster_id = cluster_id
        self._options = SharedOptions()
        self._assigned: set[int] = set()
        self.was_assigned = False
        self._stores: dict[int, Partition] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._poison: dict[int, dict[tuple[str, int], str]] = {}
        self._careful: dict[int, dict[str, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, consumer: Offsets) -> None:
        """Say whom to ask for offsets; before the first partition opens."""
        self._consumer = consumer

    @property
    def consumer(self) -> Offsets:
        """Whom to ask for offsets."""
        assert self._consumer is not None, "attach() comes first"
        return self._consumer

    def open_partitions(self) -> list[OpenPartition]:
        """Return the partitions whose chunks are applied."""
        return [partition for partition in self.partitions.values() if partition.is_open]

    @property
    def is_behind(self) -> bool:
        """Whether there is a backlog of more than a chunk or two."""
        return sum(p.lag for p in self.partitions.values()) > 2 * self.settings.chunk_records

    @property
    def is_ready(self) -> bool:
        """Whether the group has assigned partitions and all of them are open."""
        return self.was_assigned and self.failure is None and set(self.partitions) == self._assigned

    # What the transport asks.

    def next_offsets(self) -> dict[TP, int]:
        """Return the next offset to apply of every open partition's topics."""
        return {
            TP(topic, number): offset
            for number, partition in self.partitions.items()
            for topic, offset in partition.progress.offsets.items()
        }

    def durable_offset(self, tp: TP) -> int | None:
        """Return the offset up to which everything is durable, None where none is known."""
        partition = self.partitions.get(tp.partition)
        return partition.durable.get(tp.topic) if partition else None

    # A chunk's way.

    async def process(self, chunk: Chunk) -> None:
        """Apply a chunk; whatever goes wrong ends in a reopen or a failure, never in an error.

        A chunk of a partition that is not open is dropped: opening it ends with a seek.
        """
        partition = self.partitions.get(chunk.partition)
        if partition is None or not partition.is_open:
            return
        if partition.outbox.waiting > MAX_WAITING_OUTPUTS:
            await self.publisher.publish(partition.outbox)
        started = time.perf_counter()
        try:
            applied = self._apply(partition, chunk)
        except HoleError as hole:
            self._seek_back(partition, hole)
            return
        except RowsFullError as error:
            self.fail(error)
            return
        except Exception as error:  # noqa: BLE001 - the agent's boundary: Faust acks what raised
            self._isolate(partition, chunk, error)
            return
        if applied:
            self.last_progress = time.monotonic()
            self.metrics.batch_size.observe(applied)
            self.metrics.batch_seconds.labels(chunk.topic).observe(time.perf_counter() - started)
            self.wake.set()

    def _apply(self, partition: OpenPartition, chunk: Chunk) -> int:
        now_ms = int(time.time() * 1000)
        careful_until = self._careful.get(partition.number, {}).get(chunk.topic, 0)
        if chunk.start >= careful_until:
            return partition.apply(chunk, now_ms)
        applied, start = 0, chunk.start
        for record in chunk.records:
            end = record.offset + 1
            single = Chunk(chunk.topic, chunk.partition, start, end, (record,), chunk.highwater)
            try:
                applied += partition.apply(single, now_ms)
            except (HoleError, RowsFullError):
                raise
            except Exception as error:
                poison = self._poison.setdefault(partition.number, {})
                poison[chunk.topic, record.offset] = describe_failure(error)
                raise
            start = end
        return applied

    def _isolate(self, partition: OpenPartition, chunk: Chunk, error: Exception) -> None:
        """Reopen, and apply record by record up to where it went wrong."""
        log.error(
            "applying %s-%d, offsets %d to %d, raised; going back to the last checkpoint",
            chunk.topic, chunk.partition, chunk.start, chunk.end, exc_info=error,
        )  # fmt: skip
        careful = self._careful.setdefault(partition.number, {})
        careful[chunk.topic] = max(careful.get(chunk.topic, 0), chunk.end)
        self.reopen(partition)

    def _seek_back(self, partition: OpenPartition, hole: HoleError) -> None:
        if not partition.is_seeking:
            log.warning("seeking back over a hole in %s", hole)
            partition.is_seeking = True
            self._spawn(self._seek(partition))

    async def _seek(self, partition: OpenPartition) -> None:
        try:
            offsets = partition.progress.offsets
            await self.consumer.reposition(
                {TP(topic, partition.number): offset for topic, offset in offsets.items()}
            )
        finally:
            partition.is_seeking = False

    # Opening, reopening, closing.

    def assign(self, numbers: set[int]) -> None:
        """Own exactly the partitions in `numbers`: close what left, open what is new."""
        self._assigned = set(numbers)
        self.was_assigned = True
        for number in set(self._stores) - numbers:
            self.close(number)
        for number in sorted(numbers - set(self.partitions)):
            self._spawn(self._open(number))

    def reopen(self, partition: OpenPartition) -> None:
        """Discard what the partition holds in memory and load its last checkpoint."""
        partition.is_open = False
        self.partitions.pop(partition.number, None)
        self._spawn(self._open(partition.number))

    def close(self, number: int) -> None:
        """Give a partition up as it is on disk."""
        partition = self.partitions.pop(number, None)
        if partition is not None:
            partition.is_open = False
        store = self._stores.pop(number, None)
        if store is not None:
            store.close()

    async def _open(self, number: int) -> None:
        lock = self._locks.setdefault(number, asyncio.Lock())
        async with lock:
            if number in self.partitions:
                return
            started = time.perf_counter()
            try:
                partition = await self._load(number)
            except (StateError, ForeignStateError) as error:
                self.fail(error)
                return
            if number not in self._assigned:  # given away while it was loading
                self.close(number)
                return
            # From here its chunks are applied; what was fetched before the seek is trimmed or
            # dropped by the rule of `apply`.
            partition.is_seeking = True
            self.partitions[number] = partition
            partition.is_open = True
            await self._seek(partition)
            self.metrics.recovery_seconds.observe(time.perf_counter() - started)
            self.metrics.recovery_rows.inc(len(partition.rows))
            self.metrics.recovery_progress.labels(number).set(1)
            self.last_progress = time.monotonic()
            self.wake.set()
            self.opened.set()
            log.info("partition %d is open with %d customers", number, len(partition.rows))

    async def _load(self, number: int) -> OpenPartition:
        self.metrics.recovery_progress.labels(number).set(0)
        store = self._stores.get(number)
        if store is None:
            store = await asyncio.to_thread(self._open_store, number)
            self._stores[number] = store
        rows = KeyedRows(
            self.models.row_dtype,
            max_rows=max(1, self.settings.max_customers // self.settings.partitions),
            initial_rows=INITIAL_ROWS,
        )
        await asyncio.to_thread(store.load_rows, rows)
        progress = store.progress
        tps = [TP(topic, number) for topic in SOURCES]
        starts = await self.consumer.earliest_offsets(*tps)
        ends = dict(await self.consumer.highwaters(*tps))
        for tp in tps:
            offset = progress.offsets.setdefault(tp.topic, starts[tp])
            if offset > ends[tp]:
                ends[tp] = await end_offset(self.settings, tp.topic, number, ends[tp])
            progress.offsets[tp.topic] = self._checked(tp, offset, starts[tp], ends[tp])
        return OpenPartition(
            number,
            store,
            rows,
            progress,
            {tp.topic: ends[tp] for tp in tps},
            models=self.models,
            settings=self.settings,
            metrics=self.metrics,
            poison=self._poison.setdefault(number, {}),
        )

    def _checked(self, tp: TP, offset: int, start: int, end: int) -> int:
        """Return the offset to go on from; refuse one that the topic never had."""
        if offset > end:
            raise ForeignStateError(
                f"the state of partition {tp.partition} in {self.settings.data_dir} is at offset "
                f"{offset} of {tp.topic}, which ends at {end}: it belongs to another topic; use "
                "another --data-dir, or remove this one to start anew"
            )
        if offset < start:
            log.warning(
                "%s-%d: records %d to %d were deleted by the broker before they were read",
                tp.topic, tp.partition, offset, start,
            )  # fmt: skip
        return max(offset, start)

    def _open_store(self, number: int) -> Partition:
        identity = Identity(self._cluster_id, tuple(SOURCES), number, self.settings.partitions)
        path = self.settings.data_dir / "partitions" / str(number)
        return Partition.open(
            path, identity=identity, layout=self.models.row_dtype, options=self._options
        )

    # Checkpoints.

    async def checkpoint_all(self) -> None:
        """Make every open partition's changes durable."""
        await asyncio.gather(*(self.checkpoint(p) for p in list(self.partitions.values())))

    async def checkpoint(self, partition: OpenPartition) -> None:
        """Make a partition's changes durable: its outputs first, then rows and offsets at once.

        Where an output cannot be written the partition is reopened; where the disk fails, the
        worker is.
        """
        async with self._locks.setdefault(partition.number, asyncio.Lock()):
            if not partition.changed or not partition.is_open:
                return
            started = time.perf_counter()
            snapshot, progress = partition.take_snapshot()
            try:
                await partition.outbox.acknowledged(self.publisher)
                await asyncio.to_thread(partition.store.write, snapshot, progress)
            except PublishError as error:
                self.metrics.checkpoint_failures.inc()
                log.error(  # noqa: TRY400 - the line says it all
                    "partition %d: %s; going back to the last checkpoint", partition.number, error
                )
                self.reopen(partition)
                return
            except StateError as error:
                self.metrics.checkpoint_failures.inc()
                self.fail(error)
                return
            partition.durable = progress.offsets
            self._forget_trouble(partition)
            self.metrics.checkpoint_rows.inc(len(snapshot.keys))
            self.metrics.checkpoint_seconds.observe(time.perf_counter() - started)

    def _forget_trouble(self, partition: OpenPartition) -> None:
        """Drop poison and care that lie behind the durable offsets."""
        durable = partition.durable
        for topic, offset in list(self._poison.get(partition.number, {})):
            if offset < durable.get(topic, 0):
                del self._poison[partition.number][topic, offset]
        careful = self._careful.get(partition.number, {})
        for topic in [t for t, until in careful.items() if until <= durable.get(t, 0)]:
            del careful[topic]

    def fail(self, error: BaseException) -> None:
        """Say that the worker cannot go on; the first reason counts."""
        if self.failure is None:
            self.failure = error
            for partition in self.partitions.values():
                partition.is_open = False
            self.failed.set()

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload] # any coroutine
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def stop(self) -> None:
        """Cancel what is under way and close every store."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for number in list(self._stores):
            self.close(number)
