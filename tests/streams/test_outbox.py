"""Outputs on their way out: acknowledged before a checkpoint, or the checkpoint fails."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from streams.errors import PublishError
from streams.metrics import Metrics
from streams.outbox import Outbox, Output, Publisher
from streams.settings import Settings
from tests.streams.topics_for_tests import make_topic
from tests.streams.workers import read


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers(), max_batch_size=2_000)
    await client.start()
    yield client
    await client.stop()


async def test_what_is_acknowledged_is_in_the_topic_in_order_however_many_batches_it_takes(
    settings: Settings, producer: AIOKafkaProducer
) -> None:
    topic = "outbox-order"
    await make_topic(settings, topic, 1)
    outbox, metrics = Outbox(), Metrics("test")
    for number in range(500):
        outbox.add(topic, 0, Output(b"ada", b'{"n":%d}' % number, caused_ms=1))
    await outbox.acknowledged(Publisher(producer, metrics))
    assert outbox.waiting == 0
    assert [each["n"] for each in await read(settings.broker, topic)] == list(range(500))
    assert metrics.registry.get_sample_value("crm_outputs_total", {"topic": topic}) == 500


class RefusingProducer:
    """A broker that takes the first batch and refuses the rest; only the failure is made up."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._taken = 0

    def create_batch(self) -> Any:
        return self._producer.create_batch()

    async def send_batch(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        self._taken += 1
        if self._taken == 1:
            future: asyncio.Future[Any] = await self._producer.send_batch(
                batch, topic, partition=partition
            )
            return future
        error: KafkaError = MessageSizeTooLargeError()
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused


async def test_an_output_that_the_broker_refuses_fails_the_checkpoint(
    settings: Settings, producer: AIOKafkaProducer
) -> None:
    topic = "outbox-refused"
    await make_topic(settings, topic, 1)
    outbox = Outbox()
    publisher = Publisher(RefusingProducer(producer), Metrics("test"))
    outbox.add(topic, 0, Output(b"ada", b"1"))
    await outbox.acknowledged(publisher)
    outbox.add(topic, 0, Output(b"ada", b"2"))
    with pytest.raises(PublishError, match="MessageSizeTooLarge"):
        await outbox.acknowledged(publisher)
    with pytest.raises(PublishError):
        await outbox.acknowledged(publisher)


class BusyProducer:
    """A producer that has no room and never will have."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    def create_batch(self) -> Any:
        return self._producer.create_batch()

    async def send_batch(self, batch: Any, topic: str, partition: int) -> None:
        await asyncio.Event().wait()


async def test_outputs_whose_sending_was_cancelled_are_not_forgotten(
    producer: AIOKafkaProducer,
) -> None:
    outbox = Outbox()
    outbox.add("anywhere", 0, Output(b"ada", b"1"))
    sending = asyncio.ensure_future(
        Publisher(BusyProducer(producer), Metrics("test")).publish(outbox)
    )
    await asyncio.sleep(0.05)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    with pytest.raises(PublishError):
        await outbox.acknowledged(Publisher(producer, Metrics("test")))
