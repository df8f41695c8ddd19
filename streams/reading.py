"""Topics read by hand, without a consumer group: from the start, from now on, to the end.

The embedded broker's end offsets cannot be trusted (see `streams.broker`); the high-water mark that
comes with every fetch can, on any broker. So the end of a partition is taken from there.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from streams import admin
from streams.errors import BrokerError, BrokerUnavailableError
from streams.settings import Settings

STALLED_SECONDS = 30.0
"""A read to the end gives up when nothing at all has come for this long."""

_FETCH_WAIT_MS = 100
_PATIENCE_MS = 500


async def read_to_end(settings: Settings, topic: str) -> AsyncGenerator[Any, None]:
    """Yield every record of a topic, up to where it ended when the reading began, or later.

    Yields
    ------
    aiokafka's ``ConsumerRecord``, in order within a partition, with raw keys and values.

    Raises
    ------
    TopicsError
        There is no such topic.
    BrokerUnavailableError
        No broker answers, or it fell silent.
    """
    async with _reader(settings, topic, "earliest") as consumer:
        partitions = consumer.assignment()
        ends: dict[TopicPartition, int] = {}
        last_progress = time.monotonic()
        while not await _reached(consumer, partitions, ends):
            fetched = await consumer.getmany(timeout_ms=_FETCH_WAIT_MS)
            _note_ends(consumer, partitions, ends)
            for records in fetched.values():
                last_progress = time.monotonic()
                for record in records:
                    yield record
            if time.monotonic() - last_progress > STALLED_SECONDS:
                raise BrokerUnavailableError(f"{settings.broker} fell silent while reading {topic}")


async def follow(
    settings: Settings, topic: str, *, from_beginning: bool
) -> AsyncGenerator[Any, None]:
    """Yield the records of a topic as they come, for ever.

    Parameters
    ----------
    from_beginning
        Whether to start with the oldest record; else with the first that is written after the
        call.

    Yields
    ------
    aiokafka's ``ConsumerRecord``, in order within a partition, with raw keys and values.

    Raises
    ------
    TopicsError
        There is no such topic.
    BrokerUnavailableError
        No broker answers at the start; later, its return is waited for.
    """
    async with _reader(settings, topic, "earliest" if from_beginning else "latest") as consumer:
        partitions = consumer.assignment()
        starts: dict[TopicPartition, int] = {}
        while True:
            fetched = await consumer.getmany(timeout_ms=_PATIENCE_MS)
            if not from_beginning:
                _note_ends(consumer, partitions, starts)
            for partition, records in fetched.items():
                start = starts.get(partition, 0)
                for record in records:
                    # "latest" on the embedded broker can mean some records before the end.
                    if record.offset >= start:
                        yield record


async def end_offset(settings: Settings, topic: str, partition: int, at_least: int) -> int:
    """Return where a partition ends, as a fetch tells it.

    Parameters
    ----------
    at_least
        What the broker gave as the end; on the embedded broker that may be too low.
    """
    if at_least == 0:
        return 0
    tp = TopicPartition(topic, partition)
    async with _reader(settings, topic, "earliest") as consumer:
        consumer.assign([tp])
        consumer.seek(tp, at_least - 1)
        async with asyncio.timeout(STALLED_SECONDS):
            while consumer.highwater(tp) is None:
                await consumer.getmany(timeout_ms=_FETCH_WAIT_MS)
        return int(max(consumer.highwater(tp), at_least))


@asynccontextmanager
async def _reader(settings: Settings, topic: str, start: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer that holds all partitions of a topic."""
    count = await admin.partitions_of_topic(settings, topic)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers(),
        client_id=settings.app_id,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset=start,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        isolation_level="read_committed",
        **settings.client_security(),
    )
    try:
        await consumer.start()
        consumer.assign([TopicPartition(topic, number) for number in range(count)])
        yield consumer
    except KafkaConnectionError as error:
        raise BrokerUnavailableError(f"no broker answers at {settings.broker}") from error
    except KafkaError as error:
        raise BrokerError(f"{settings.broker}: reading {topic}: {error}") from error
    finally:
        # Bounded, since a client may wait for a broker that is gone.
        async with asyncio.timeout(STALLED_SECONDS):
            await consumer.stop()


def _note_ends(
    consumer: AIOKafkaConsumer, partitions: set[TopicPartition], ends: dict[TopicPartition, int]
) -> None:
    """Remember the first high-water mark that each partition's fetches told."""
    for partition in partitions:
        mark = consumer.highwater(partition)
        if mark is not None:
            ends.setdefault(partition, mark)


async def _reached(
    consumer: AIOKafkaConsumer, partitions: set[TopicPartition], ends: dict[TopicPartition, int]
) -> bool:
    if len(ends) < len(partitions):
        return False
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return False
    return True
