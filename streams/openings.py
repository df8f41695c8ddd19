"""Opens a worker's partitions and closes them: store, fence, changelog, memory, in this order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from aiokafka.errors import KafkaError, KafkaTimeoutError

from streams.admin import cluster_id
from streams.caution import Caution
from streams.changelog import TransactionalProducer
from streams.errors import BrokerError, StalledError, TransactionError
from streams.loading import Loader, Offsets, Promise
from streams.metrics import Metrics
from streams.models import Models
from streams.partitions import OpenPartition
from streams.settings import Settings
from streams.standby import Standby
from streams.steps import Step
from streams.stores import Stores
from streams.threads import in_thread

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
MAX_SILENCES = 3
"""A consumer that learns nothing for so long, at 40 seconds a time, hangs."""


class Openings:
    """Holds what outlives a reopening: stores, producers, standby copies.

    Parameters
    ----------
    settings, models, metrics, promise
        The worker's.
    cluster_id
        Of the broker; state made on another cluster is refused.
    fail
        Told of an error after which the worker cannot go on.

    Attributes
    ----------
    standby
        Copies of partitions that other workers process.
    """

    def __init__(
        self,
        settings: Settings,
        cluster_id: str,
        models: Models,
        metrics: Metrics,
        promise: Promise,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._promise = promise
        has_changelog = promise.guarantee.changelog
        self._stores = Stores(settings, cluster_id, models, replaceable=has_changelog)
        self._loader = Loader(settings, models, metrics, self._stores, promise)
        self._producers: dict[int, TransactionalProducer] = {}
        self._silences = 0
        self.standby = Standby(settings, models.row_dtype, self._stores, promise, fail)

    def numbers(self) -> set[int]:
        """Return the partitions whose stores are open."""
        return self._stores.numbers()

    @property
    def recovering(self) -> Mapping[int, float]:
        """How much is read of each partition that is being recovered, by number, 0 to 1."""
        return self._loader.shares

    def lock(self, number: int) -> asyncio.Lock:
        """Return the lock under which a partition's store is opened, written and closed."""
        return self._stores.lock(number)

    async def open(
        self,
        number: int,
        consumer: Offsets,
        caution: Caution,
        *,
        is_wanted: Callable[[], bool],
        begin: Callable[[OpenPartition], Awaitable[None]],
    ) -> None:
        """Load a partition and hand it to `begin`; try until that works or it is not wanted.

        Raises
        ------
        StateError, ForeignStateError, StalledError
            Where trying again would not help.
        """
        async with self.lock(number):
            if not is_wanted():  # or a standby that was begun meanwhile would be lost
                return
            await self.standby.leave(number)
            await asyncio.sleep(caution.pause_seconds)
            while is_wanted():
                try:
                    partition = await self._load(number, consumer, caution)
                except KafkaTimeoutError as error:
                    log.warning("opening partition %d: %r; trying again", number, error)
                    await self._require_consumer()
                except (KafkaError, TimeoutError, BrokerError, TransactionError) as error:
                    log.warning("opening partition %d: %r; trying again", number, error)
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    await begin(partition)

    async def _require_consumer(self) -> None:
        """Tell a consumer that hangs from a broker that is away, which is only waited for.

        Raises
        ------
        StalledError
            Where the broker has answered others each time that the consumer learned nothing.
        """
        try:
            await cluster_id(self._settings)
        except BrokerError:
            self._silences = 0
            await asyncio.sleep(RETRY_SECONDS)
            return
        self._silences += 1
        if self._silences >= MAX_SILENCES:
            raise StalledError("the consumer hangs: the broker answers, but not to it")

    async def _load(self, number: int, consumer: Offsets, caution: Caution) -> OpenPartition:
        started = time.perf_counter()
        self._metrics.recovery_progress.labels(number).set(0)
        # Before the fence: a worker whose consumer hangs may have been replaced without knowing it,
        # and must not fence the one that works.
        sources = await self._loader.ask(number, consumer)
        producer = await self._fence(number)
        partition = await self._loader.load(number, sources, caution, producer)
        self._silences = 0
        self._metrics.recovery_seconds.observe(time.perf_counter() - started)
        self._metrics.recovery_progress.labels(number).set(1)
        return partition

    async def _fence(self, number: int) -> TransactionalProducer | None:
        """Become the only one who can write the partition's changelog; None where there is none."""
        if not self._promise.guarantee.changelog:
            return None
        await self._discard_producer(number)
        producer = TransactionalProducer(self._settings, f"{self._settings.app_id}-{number}")
        self._producers[number] = producer
        await producer.start()
        self._promise.on_step(Step.FENCED, number)
        return producer

    async def _discard_producer(self, number: int) -> None:
        producer = self._producers.pop(number, None)
        if producer is not None:
            await producer.discard()

    async def close(self, number: int, is_wanted: Callable[[], bool]) -> None:
        """Give a partition up as it is on disk, unless it is wanted again meanwhile."""
        async with self.lock(number):
            if is_wanted():
                return
            await self._discard_producer(number)
            if number not in self.standby:
                await self.standby.leave(number)
                await in_thread(self._stores.close, number)

    async def stop(self) -> None:
        """Give every partition up."""
        await self.standby.stop()
        for number in list(self._producers):
            await self._discard_producer(number)
        for number in self._stores.numbers():
            await in_thread(self._stores.close, number)
