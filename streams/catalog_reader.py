"""Reads the catalogue whole, and goes on reading it."""

import logging

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.catalog import Catalog
from streams.decode import decode_catalog_item
from streams.metrics import Metrics
from streams.rejects import Reject
from streams.settings import Settings
from streams.topics import CATALOG

log = logging.getLogger(__name__)

FETCH_MS = 500


class CatalogReader:
    """A plain consumer of every partition of the catalogue, outside the consumer group.

    A record that cannot be read is counted and logged with its offset; the topic is compacted,
    so the record stays where it is until a good one for the same item replaces it.
    """

    def __init__(self, settings: Settings, catalog: Catalog, metrics: Metrics) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._topic = CATALOG.name_of(settings)
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
        log.info("the catalogue has %d items", len(self._catalog))

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
        change = decode_catalog_item(record)
        if isinstance(change, Reject):
            labels = (self._topic, str(change.stage), str(change.reason))
            self._metrics.rejected.labels(*labels).inc()
            log.error("catalogue record at offset %d: %s", change.offset, change.error)
            return
        self._catalog.apply(change)
        self._metrics.events.labels(self._topic).inc()
