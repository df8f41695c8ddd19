"""Reads a small compacted topic whole, and goes on reading it."""

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.metrics import Metrics
from streams.records import Record
from streams.rejects import RefusedError, Reject, reject
from streams.settings import Settings
from streams.topics import Topic

log = logging.getLogger(__name__)

FETCH_MS = 500

C = TypeVar("C")


class CompactedReader(Generic[C]):
    """A plain consumer of every partition of a topic, outside the consumer group.

    A record that cannot be used is counted and logged with its offset; the topic is compacted,
    so the record stays where it is until a good one with the same key replaces it. What was known
    under its key stays, too.

    Parameters
    ----------
    settings
        How to reach the broker.
    topic
        What to read.
    decode
        Makes a change of a record, or says what is wrong with it.
    apply
        Takes in a change; may raise `RefusedError`.
    metrics
        Where records are counted.
    """

    def __init__(
        self,
        settings: Settings,
        topic: Topic,
        decode: Callable[[Record], C | Reject],
        apply: Callable[[C], None],
        metrics: Metrics,
    ) -> None:
        self._decode = decode
        self._apply = apply
        self._metrics = metrics
        self._topic = topic.name_of(settings)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers(),
            client_id=settings.app_id,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_MS,
            **settings.client_security(),
        )

    async def start(self) -> None:
        """Read everything that is in the topic by now."""
        await self._consumer.start()
        # Only now the client knows the topic's partitions; a topic without any was not created.
        partitions = self._consumer.partitions_for_topic(self._topic) or set()
        if not partitions:
            await self._consumer.topics()
            partitions = self._consumer.partitions_for_topic(self._topic) or set()
        tps = [TopicPartition(self._topic, number) for number in sorted(partitions)]
        self._consumer.assign(tps)
        ends = await self._consumer.end_offsets(tps)
        while any([await self._consumer.position(tp) < ends[tp] for tp in tps]):
            await self._read()

    async def run(self) -> None:
        """Keep reading."""
        while True:
            await self._read()

    async def stop(self) -> None:
        """Leave the broker."""
        await self._consumer.stop()

    async def _read(self) -> None:
        fetched = await self._consumer.getmany(timeout_ms=FETCH_MS)
        for records in fetched.values():
            for record in records:
                self._take(record)

    def _take(self, record: ConsumerRecord) -> None:
        change = self._decode(record)
        if not isinstance(change, Reject):
            try:
                self._apply(change)
            except RefusedError as error:
                change = reject(record, 0, error.reason, str(error))
        if isinstance(change, Reject):
            labels = (self._topic, str(change.stage), str(change.reason))
            self._metrics.rejected.labels(*labels).inc()
            log.error("%s: record at offset %d: %s", self._topic, change.offset, change.error)
            return
        self._metrics.events.labels(self._topic).inc()
