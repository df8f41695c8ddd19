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
from collections.abc import Coroutine
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP

from state.errors import RowsFullError, StateError
from state.partition import Partition
from streams.caution import MAX_FAILED_CHECKPOINTS, MAX_POISON, Caution
from streams.errors import ForeignStateError, PublishError, StreamsError
from streams.loading import Loader, Offsets
from streams.metrics import Metrics
from streams.models import Models
from streams.outbox import Publisher
from streams.partitions import HoleError, OpenPartition, SweepError, describe_failure
from streams.settings import Settings
from streams.transport import Chunk

log = logging.getLogger(__name__)

MAX_WAITING_BYTES = 64 << 20
"""A partition whose outbox holds more waits for the broker before it applies more."""
RETRY_SECONDS = 1.0


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
    opening
        Since when a partition is being opened, by number; seconds, monotonic.
    stopping
        Set when the worker ends in order: what is under way is finished, nothing is begun.
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
        self.opening: dict[int, float] = {}
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.stopping = asyncio.Event()
        self.wake = asyncio.Event()
        self.changed = asyncio.Event()
        self.was_assigned = False
        self._consumer: Offsets | None = None
        self._loader = Loader(settings, cluster_id, self.models, metrics)
        self._assigned: set[int] = set()
        self._stores: dict[int, Partition] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._cautions: dict[int, Caution] = {}
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
        return (
            sum(sum(p.lags().values()) for p in self.partitions.values())
            > 2 * self.settings.chunk_records
        )

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
        if partition is not None and partition.outbox.waiting_bytes > MAX_WAITING_BYTES:
            await self.publisher.publish(partition.outbox)
            partition = self.partitions.get(chunk.partition)  # it may have been reopened
        if partition is None or not partition.is_open:
            return
        started = time.perf_counter()
        try:
            applied = self._apply(partition, chunk)
        except HoleError as hole:
            self._seek_back(partition, hole)
        except (RowsFullError, SweepError) as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - the agent's boundary: Faust acks what raised
            self._isolate(partition, chunk, error)
        else:
            if applied:
                seconds = time.perf_counter() - started
                self.metrics.batch_size.observe(applied)
                self.metrics.batch_seconds.labels(chunk.topic).observe(seconds)
                self.wake.set()

    def _apply(self, partition: OpenPartition, chunk: Chunk) -> int:
        now_ms = int(time.time() * 1000)
        caution = self._caution(partition.number)
        if chunk.start >= caution.careful_until.get(chunk.topic, 0):
            return partition.apply(chunk, now_ms)
        applied, start = 0, chunk.start
        for record in chunk.records:
            end = record.offset + 1
            single = Chunk(chunk.topic, chunk.partition, start, end, (record,), chunk.highwater)
            try:
                applied += partition.apply(single, now_ms)
            except (HoleError, RowsFullError, SweepError):
                raise
            except Exception as error:
                caution.poison[chunk.topic, record.offset] = describe_failure(error)
                raise
            start = end
        return applied

    def _isolate(self, partition: OpenPartition, chunk: Chunk, error: Exception) -> None:
        """Reopen, and apply record by record up to where it went wrong."""
        log.error(
            "applying %s-%d, offsets %d to %d, raised; going back to the last checkpoint",
            chunk.topic, chunk.partition, chunk.start, chunk.end, exc_info=error,
        )  # fmt: skip
        caution = self._caution(partition.number)
        caution.be_careful(chunk.topic, chunk.end)
        if len(caution.poison) > MAX_POISON:
            self.fail(
                StreamsError(
                    f"{len(caution.poison)} records of partition {partition.number} made an "
                    f"outcome raise, the last one with: {error}"
                )
            )
        self.reopen(partition)

    def _caution(self, number: int) -> Caution:
        return self._cautions.setdefault(number, Caution())

    def _seek_back(self, partition: OpenPartition, hole: HoleError) -> None:
        if not partition.is_seeking:
            log.warning("seeking back over a hole in %s", hole)
            partition.is_seeking = True
            self.spawn(self._seek(partition))

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
        for number in set(self.partitions) - numbers:
            self.partitions.pop(number).is_open = False
        for number in set(self._stores) - numbers:
            self.spawn(self._close(number))
        for number in sorted(numbers - set(self.partitions)):
            self.spawn(self._open(number))
        self.changed.set()

    def reopen(self, partition: OpenPartition) -> None:
        """Discard what the partition holds in memory and load its last checkpoint."""
        partition.is_open = False
        if self.partitions.get(partition.number) is partition:
            del self.partitions[partition.number]
            self.spawn(self._open(partition.number))

    async def _close(self, number: int) -> None:
        """Give a partition up as it is on disk, unless it has come back meanwhile."""
        async with self._lock(number):
            if number not in self._assigned and (store := self._stores.pop(number, None)):
                await asyncio.to_thread(store.close)

    def _lock(self, number: int) -> asyncio.Lock:
        """Return the lock under which a partition's store is opened, written and closed."""
        return self._locks.setdefault(number, asyncio.Lock())

    def _wanted(self, number: int) -> bool:
        return number in self._assigned and number not in self.partitions and not self.failure

    async def _open(self, number: int) -> None:
        async with self._lock(number):
            self.opening[number] = time.monotonic()
            try:
                await asyncio.sleep(self._caution(number).pause_seconds)
                while self._wanted(number):
                    try:
                        partition = await self._load(number)
                    except (KafkaError, TimeoutError) as error:
                        log.warning("opening partition %d: %r; trying again", number, error)
                        await asyncio.sleep(RETRY_SECONDS)
                    else:
                        await self._begin(partition)
            except (StateError, ForeignStateError) as error:
                self.fail(error)
            finally:
                del self.opening[number]
        if number not in self._assigned:  # given away while it was loading
            await self._close(number)

    async def _load(self, number: int) -> OpenPartition:
        started = time.perf_counter()
        self.metrics.recovery_progress.labels(number).set(0)
        if number not in self._stores:
            self._stores[number] = await asyncio.to_thread(self._loader.open_store, number)
        partition = await self._loader.load(
            number, self._stores[number], self.consumer, self._caution(number)
        )
        self.metrics.recovery_seconds.observe(time.perf_counter() - started)
        self.metrics.recovery_rows.inc(len(partition.rows))
        self.metrics.recovery_progress.labels(number).set(1)
        return partition

    async def _begin(self, partition: OpenPartition) -> None:
        """Apply the partition's chunks from here; what was fetched before is trimmed or dropped."""
        if not self._wanted(partition.number):
            return
        partition.is_seeking = True
        self.partitions[partition.number] = partition
        partition.is_open = True
        await self._seek(partition)
        self.wake.set()
        self.changed.set()
        log.info("partition %d is open with %d customers", partition.number, len(partition.rows))

    # Checkpoints.

    async def checkpoint_all(self) -> None:
        """Make every open partition's changes durable."""
        await asyncio.gather(*(self.checkpoint(p) for p in list(self.partitions.values())))

    async def checkpoint(self, partition: OpenPartition) -> None:
        """Make a partition's changes durable: its outputs first, then rows and offsets at once.

        Where an output cannot be written the partition is reopened; where the disk fails, or
        outputs are refused again and again, the worker cannot go on.
        """
        async with self._lock(partition.number):
            if not partition.changed or not partition.is_open:
                return
            started = time.perf_counter()
            snapshot, progress = partition.take_snapshot()
            try:
                await partition.outbox.acknowledged(self.publisher)
                await asyncio.to_thread(partition.store.write, snapshot, progress)
            except PublishError as error:
                self._on_refused(partition, error)
                return
            except StateError as error:
                self.metrics.checkpoint_failures.inc()
                self.fail(error)
                return
            except BaseException:
                # The snapshot is lost, so no later one may be written over the hole it leaves.
                partition.is_open = False
                raise
            partition.durable = progress.offsets
            self._caution(partition.number).forget(partition.durable)
            self.metrics.checkpoint_rows.inc(len(snapshot.keys))
            self.metrics.checkpoint_seconds.observe(time.perf_counter() - started)

    def _on_refused(self, partition: OpenPartition, error: PublishError) -> None:
        self.metrics.checkpoint_failures.inc()
        caution = self._caution(partition.number)
        caution.failed_checkpoints += 1
        log.error("partition %d: %s; going back to the last checkpoint", partition.number, error)
        if caution.failed_checkpoints >= MAX_FAILED_CHECKPOINTS:
            self.fail(error)
        self.reopen(partition)

    # The end.

    def fail(self, error: BaseException) -> None:
        """Say that the worker cannot go on; the first reason counts."""
        if self.failure is None:
            self.failure = error
            for partition in self.partitions.values():
                partition.is_open = False
            self.failed.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; an error in it means that the worker cannot go on."""
        task = asyncio.ensure_future(work)
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
        for store in self._stores.values():
            await asyncio.to_thread(store.close)
