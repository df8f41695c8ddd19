"""A partition's way into memory: its store, the changelog, and offsets that the topics bear out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from faust.types import TP

from state.errors import CorruptStateError
from state.partition import Partition
from state.rows import KeyedRows
from streams.caution import Caution
from streams.changelog import TransactionalProducer
from streams.errors import ForeignStateError
from streams.guarantee import Guarantee
from streams.metrics import Metrics
from streams.models import Models
from streams.partitions import OpenPartition, owed
from streams.reading import end_offset
from streams.recovery import reader_of, require_copied, require_settled
from streams.settings import Settings
from streams.sources import SOURCES
from streams.steps import OnStep, Step
from streams.stores import Stores
from streams.threads import in_thread

log = logging.getLogger(__name__)

INITIAL_ROWS = 1024


class Offsets(Protocol):
    """What is asked of the consumer."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the first offset still there."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the offset after the last record."""

    async def reposition(self, offsets: Mapping[TP, int]) -> None:
        """Seek."""


@dataclass(frozen=True, slots=True)
class Promise:
    """How checkpoints are kept, and by what means.

    Attributes
    ----------
    guarantee
        What was found out at the start.
    tombstones_ms
        How long the changelog keeps the deletion of a row, ms.
    on_step
        Told of every step; a test may end the worker there.
    """

    guarantee: Guarantee
    tombstones_ms: int
    on_step: OnStep


class SourceBounds(NamedTuple):
    """Where the topics of a partition start, and where they end."""

    starts: dict[TP, int]
    ends: dict[TP, int]


class Loader:
    """Loads partitions from their stores and the changelog.

    Parameters
    ----------
    settings, models, metrics, stores
        The worker's.
    promise
        Whether there is a changelog.

    Attributes
    ----------
    shares
        How much is read of each partition that is being recovered, by number, 0 to 1.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        metrics: Metrics,
        stores: Stores,
        promise: Promise,
    ) -> None:
        self._settings = settings
        self._models = models
        self._metrics = metrics
        self._stores = stores
        self._promise = promise
        self.shares: dict[int, float] = {}

    async def ask(self, number: int, consumer: Offsets) -> SourceBounds:
        """Ask the consumer where a partition's sources start and end.

        Raises
        ------
        KafkaTimeoutError
            Where the consumer hangs, or the broker is away.
        """
        tps = [TP(topic, number) for topic in SOURCES]
        starts = await consumer.earliest_offsets(*tps)
        return SourceBounds(dict(starts), dict(await consumer.highwaters(*tps)))

    async def load(
        self,
        number: int,
        sources: SourceBounds,
        caution: Caution,
        producer: TransactionalProducer | None,
    ) -> OpenPartition:
        """Load a partition's last checkpoint; a topic it does not know starts at its beginning.

        Parameters
        ----------
        sources
            As `ask` returned them.
        producer
            The one that has fenced all others, so that the changelog stands still; None where
            there is no changelog.

        Raises
        ------
        StateError
            Where the state cannot be read.
        ForeignStateError
            Where it is ahead of the topics.
        """
        await in_thread(self._stores.open, number)
        self._promise.on_step(Step.STORE_OPENED, number)
        if producer is None:
            rows = await in_thread(self._load_rows, self._whole(number))
        else:
            rows = await self._recover(number)
        self._promise.on_step(Step.RECOVERED, number)
        store = self._stores.get(number)
        progress = store.progress
        ends = await self._borne_out(number, progress.offsets, sources)
        return OpenPartition(
            number,
            store,
            rows,
            progress,
            ends,
            models=self._models,
            settings=self._settings,
            metrics=self._metrics,
            poison=caution.poison,
            producer=producer,
        )

    def _whole(self, number: int) -> Partition:
        store = self._stores.get(number)
        position = store.changelog_position
        if position is None:
            return store
        if self._settings.changelog:
            raise ForeignStateError(
                f"the state of partition {number} has a changelog, and this broker refuses the "
                "transactions for it: use the broker that has it, or give the changelog up for "
                "good (changelog=false)"
            )
        if not position.whole:
            raise ForeignStateError(
                f"the state of partition {number} is half rebuilt from the changelog: let that "
                "be finished before the changelog is given up"
            )
        return store

    async def _recover(self, number: int) -> KeyedRows:
        layout, promise = self._models.row_dtype, self._promise
        async with reader_of(self._settings, number, layout, promise.on_step) as reader:
            bounds = await reader.bounds(promise.tombstones_ms)
            await require_settled(self._settings, number, bounds)
            store = self._stores.get(number)
            require_copied(store, number)
            complaint = bounds.complaint(store.changelog_position)
            if complaint is not None:
                store = await in_thread(self._stores.replace, number, complaint)
            try:
                rows = await in_thread(self._load_rows, store)
            except CorruptStateError as error:
                store = await in_thread(self._stores.replace, number, str(error))
                rows = await in_thread(self._load_rows, store)
            started = time.perf_counter()
            try:
                count = await reader.read(
                    store, rows, bounds, lambda share: self._on_progress(number, share)
                )
            finally:
                self.shares.pop(number, None)
        if count:
            seconds = time.perf_counter() - started
            log.info("partition %d: %d records of the changelog in %.1f s", number, count, seconds)
            self._metrics.recovery_rows.inc(count)
        return rows

    def _on_progress(self, number: int, share: float) -> None:
        self.shares[number] = share
        self._metrics.recovery_progress.labels(number).set(share)

    def _load_rows(self, store: Partition) -> KeyedRows:
        rows = KeyedRows(
            self._models.row_dtype,
            max_rows=max(1, self._settings.max_customers // self._settings.partitions),
            initial_rows=INITIAL_ROWS,
            cold=store,
            pinned=owed,
        )
        self._metrics.recovery_rows.inc(store.load_rows(rows))
        return rows

    async def _borne_out(
        self, number: int, offsets: dict[str, int], sources: SourceBounds
    ) -> dict[str, int]:
        """Hold the state's offsets against the topics; complete them, and return the ends."""
        starts, ends = sources.starts, dict(sources.ends)
        for tp in starts:
            offset = offsets.setdefault(tp.topic, starts[tp])
            if offset > ends[tp]:
                ends[tp] = await end_offset(self._settings, tp.topic, number, ends[tp])
            offsets[tp.topic] = self.checked(tp, offset, starts[tp], ends[tp])
        return {tp.topic: end for tp, end in ends.items()}

    def checked(self, tp: TP, offset: int, start: int, end: int) -> int:
        """Return the offset to go on from; refuse one that the topic never had."""
        if offset > end:
            raise ForeignStateError(
                f"the state of partition {tp.partition} in {self._settings.data_dir} is at offset "
                f"{offset} of {tp.topic}, which ends at {end}: it belongs to another topic; use "
                "another --data-dir, or remove this one to start anew"
            )
        if offset < start:
            log.warning(
                "%s-%d: records %d to %d were deleted by the broker before they were read",
                tp.topic, tp.partition, offset, start,
            )  # fmt: skip
        return max(offset, start)
