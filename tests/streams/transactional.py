"""A producer of transactions, as a CRM may use one for the source topics."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer

from tests.streams.workers import Sent


@asynccontextmanager
async def transactional(broker_url: str, name: str) -> AsyncIterator[AIOKafkaProducer]:
    """Open a producer with the transactional id `name`."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker_url.removeprefix("kafka://"), transactional_id=name
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def transaction(
    producer: AIOKafkaProducer,
    records: Iterable[Sent],
    *,
    commit: bool,
    partition: int | None = None,
) -> None:
    """Produce (topic, key, value) records in one transaction, and commit or abort it.

    The broker has all of the records before the transaction ends either way.
    """
    await producer.begin_transaction()
    receipts = []
    for topic, key, value in records:
        encoded = key.encode() if isinstance(key, str) else key
        body = json.dumps(value).encode() if isinstance(value, Mapping) else value
        receipts.append(await producer.send(topic, body, key=encoded, partition=partition))
    await asyncio.gather(*receipts)
    await (producer.commit_transaction() if commit else producer.abort_transaction())
