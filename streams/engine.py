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
from collections.abc import Coroutine, Set
from contextlib import nullcontext
from typing import Any

from aiokafka.errors import ProducerFenced
from faust.types import TP

from state.errors import StateError
from streams.caution import MAX_FAILED_CHECKPOINTS, Caution
from streams.checkpoints import Checkpoints
from streams.errors import (
    ForeignStateError,
    PublishError,
    StalledError,
)
from streams.loading import Offsets, Promise
from streams.metrics import Metrics
from streams.models import Models
from streams.openings import Openings
from streams.outbox import Publisher
from streams.partitions import OpenPartition, Snapshot
from streams.processing import Processing
from streams.settings import Settings
from streams.sweeps import SweepError
from streams.topics import CHANGELOG
from streams.transport import Chunk

log = logging.getLogger(__name__)

LARGE_ROWS = 20_000
"""A checkpoint of more rows, as after a sweep, waits for others that are large."""


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
        Who publishes outputs that are not part of a transaction.
    promise
        How checkpoints are kept.

    Attributes
    ----------
    partitions
        By number; a partition that is being loaded is not in it yet.
    openings
        Opens partitions and closes them.
    assigned
        The partitions that the group has given to this worker.
    stopping
        Set when the worker ends in order: what is under way is finished, nothing is begun.
    failure
        Set when the worker cannot go on; what it holds is the reason.
    """

    def __init__(
        self,
        settings: Settings,
        cluster_id: str,
        metrics: Metrics,
        publisher: Publisher,
        promise: Promise,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.publisher = publisher
        self.promise = promise
        self.models = Models(settings)
        self.partitions: dict[int, OpenPartition] = {}
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.stopping = asyncio.Event()
        self.wake = asyncio.Event()
        self.changed = asyncio.Event()
        self.was_assigned = False
        self._consumer: Offsets | None = None
        self.openings = Openings(settings, cluster_id, self.models, metrics, promise, self.fail)
        self._checkpoints = Checkpoints(promise, publisher, CHANGELOG.name_of(settings))
        self.assigned: set[int] = set()
        self._cautions: dict[int, Caution] = {}
        self._generation = 0
        self._is_rebalancing = False
        self._one_large = asyncio.Lock()
        self._processing = Processing(self)
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
        return self.was_assigned and self.failure is None and set(self.partitions) == self.assigned

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

    async def process(self, chunk: Chunk) -> None:
        """Apply a chunk; see `streams.processing`."""
        await self._processing.process(chunk)

    def caution(self, number: int) -> Caution:
        """Return what is remembered of trouble in a partition."""
        return self._cautions.setdefault(number, Caution())

    async def seek(self, partition: OpenPartition) -> None:
        """Have the consumer go on where the partition is."""
        partition.is_seeking = True
        try:
            offsets = partition.progress.offsets
            await self.consumer.reposition(
                {TP(topic, partition.number): offset for topic, offset in offsets.items()}
            )
        finally:
            partition.is_seeking = False

    # Opening, reopening, closing.

    def assign(
        self, numbers: Set[int], standbys: Set[int] = frozenset(), generation: int | None = None
    ) -> None:
        """Own exactly the partitions in `numbers`: close what left, open what is new.

        Parameters
        ----------
        numbers
            What this worker processes.
        standbys
            Of which it keeps a copy of the state, to take over quickly.
        generation
            Of the group. Where one was missed, another worker may have had a partition in it, so
            that what is in memory is outdated; None where there is no group.
        """
        is_next = generation is None or generation == self._generation + 1
        self._generation = generation or self._generation
        self._is_rebalancing = False
        self.assigned = set(numbers)
        self.was_assigned = True
        self.openings.standby.follow(standbys)
        for number in set(self.partitions) - numbers if is_next else set(self.partitions):
            self._discard(self.partitions[number])
        for number in self.openings.numbers() - numbers:
            self.spawn(self._close(number))
        for number in sorted(numbers - set(self.partitions)):
            self.spawn(self._open(number))
        self.changed.set()

    def reopen(self, partition: OpenPartition) -> None:
        """Discard what the partition holds in memory and load its last checkpoint."""
        if self._discard(partition):
            self.spawn(self._open(partition.number))

    def _discard(self, partition: OpenPartition) -> bool:
        """Forget what the partition holds in memory; tell whether it was in use."""
        partition.is_open = False
        in_use = self.partitions.get(partition.number) is partition
        if in_use:
            del self.partitions[partition.number]
        return in_use

    def _wanted(self, number: int) -> bool:
        return (
            number in self.assigned
            and number not in self.partitions
            and not self._is_rebalancing  # it may be another's already
            and not self.failure
        )

    async def _close(self, number: int) -> None:
        await self.openings.close(number, lambda: number in self.assigned)

    async def _open(self, number: int) -> None:
        try:
            await self.openings.open(
                number,
                self.consumer,
                self.caution(number),
                is_wanted=lambda: self._wanted(number),
                begin=self._begin,
            )
        except (StateError, ForeignStateError, StalledError) as error:
            self.fail(error)
        if number not in self.assigned:  # given away while it was loading
            await self._close(number)

    async def _begin(self, partition: OpenPartition) -> None:
        """Apply the partition's chunks from here; what was fetched before is trimmed or dropped."""
        if not self._wanted(partition.number):
            return
        try:
            partition.catch_up()
        except SweepError as error:
            self.fail(error)
            return
        partition.is_seeking = True
        self.partitions[partition.number] = partition
        partition.is_open = True
        await self.seek(partition)
        self.wake.set()
        self.changed.set()
        log.info("partition %d is open with %d customers", partition.number, len(partition.rows))

    # Checkpoints.

    async def checkpoint_all(self) -> None:
        """Make every open partition's changes durable."""
        work = [self.checkpoint(partition) for partition in list(self.partitions.values())]
        # All of them to their end, since stores may be closed after this.
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def hand_over(self) -> None:
        """Checkpoint before partitions may go to other workers, within half the time for it.

        What is not durable by then is discarded: whoever opens the partition next goes on from
        its last checkpoint. A member that comes too late would be thrown out of the group.
        """
        self._is_rebalancing = True
        try:
            async with asyncio.timeout(self.settings.rebalance_timeout_seconds / 2):
                await self.checkpoint_all()
        except TimeoutError:
            log.warning("checkpoints took more than half the rebalance timeout: given up")
            for partition in list(self.partitions.values()):
                if partition.changed:
                    self._discard(partition)

    def begin_checkpoint(self, partition: OpenPartition) -> None:
        """Begin to make a partition's changes durable, unless that is under way."""
        if partition.changed and not self.openings.lock(partition.number).locked():
            self.spawn(self.checkpoint(partition))

    async def checkpoint(self, partition: OpenPartition) -> None:
        """Make a partition's changes durable: its outputs first, then rows and offsets at once.

        Where an output cannot be written the partition is reopened; where the disk fails, or
        outputs are refused again and again, the worker cannot go on.
        """
        async with self.openings.lock(partition.number):
            if not partition.changed or not partition.is_open:
                return
            started = time.perf_counter()
            try:
                snapshot = await self._make_durable(partition)
            except PublishError as error:
                self._on_refused(partition, error)
                return
            except StateError as error:
                self.metrics.checkpoint_failures.inc()
                self.fail(error)
                return
            except BaseException as error:
                # The snapshot is lost, so no later one may be written over the hole it leaves.
                self._discard(partition)
                if isinstance(error, Exception):
                    self.fail(error)
                raise
            partition.durable = snapshot.progress.offsets
            self.caution(partition.number).forget(partition.durable)
            self.metrics.checkpoint_rows.inc(len(snapshot.rows.keys))
            self.metrics.checkpoint_seconds.observe(time.perf_counter() - started)

    async def _make_durable(self, partition: OpenPartition) -> Snapshot:
        """Take a snapshot all the way; large ones one after another, since each is a copy."""
        is_large = partition.rows.dirty_count > LARGE_ROWS
        async with self._one_large if is_large else nullcontext():
            snapshot = self._checkpoints.take(partition)
            await self._checkpoints.make_durable(partition, snapshot)
        return snapshot

    def _on_refused(self, partition: OpenPartition, error: PublishError) -> None:
        self.metrics.checkpoint_failures.inc()
        caution = self.caution(partition.number)
        caution.failed_checkpoints += 1
        caution.was_fenced = isinstance(error.__cause__, ProducerFenced)
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
        await self.openings.stop()
