"""The models' topic as one worker reads and writes it: deltas in partition 0, snapshots in 1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.admin import partitions_of_topic
from streams.errors import BrokerUnavailableError, PublishError, TopicsError
from streams.model_records import ArraySet, Assembler, Part, UnreadableRecordError, decode
from streams.reading import STALLED_SECONDS, end_offset
from streams.threads import in_thread

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from streams.settings import Settings

DELTAS = 0
SNAPSHOTS = 1

WRITE_SECONDS = 10.0
"""A record that the broker has not acknowledged by then counts as not written."""

_FETCH_MS = 100
"""How long the broker holds a fetch for which it has nothing; when another partition is followed,
such a fetch is waited for."""
_PATIENCE_MS = 500
_LOOK_BACK_TIMES = 8


class Received(NamedTuple):
    """One record of the topic; what could not be read stands there as the error."""

    offset: int
    value_bytes: int
    part: Part | UnreadableRecordError


class ModelTopic:
    """Reads with a consumer of its own outside any group; writes with a producer that it is given.

    Parameters
    ----------
    settings
        How to reach the broker.
    name
        The topic's name on the broker.
    producer
        Started; one that writes with ``acks=all``. It is not stopped here.

    Attributes
    ----------
    position
        Offset of the next record to read of the partition that is followed.
    """

    def __init__(self, settings: Settings, name: str, producer: AIOKafkaProducer) -> None:
        self._settings = settings
        self._name = name
        self._producer = producer
        self._consumer: Any = None
        self._followed = TopicPartition(name, DELTAS)
        self.position = 0

    async def start(self) -> None:
        """Connect.

        Raises
        ------
        TopicsError
            Where there is no such topic, or it has one partition only.
        BrokerUnavailableError
            No broker answers.
        """
        count = await partitions_of_topic(self._settings, self._name)
        if count <= SNAPSHOTS:
            raise TopicsError(
                f"topic {self._name} has {count} partition, but needs {SNAPSHOTS + 1}: delete it "
                "and create it again with: crm-streams topics create"
            )
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.bootstrap_servers(),
            client_id=self._settings.app_id,
            group_id=None,
            enable_auto_commit=False,
            # What the broker has deleted before it was read shows as a gap in the sequences.
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_MS,
            **self._settings.client_security(),
        )
        await self._consumer.start()

    async def stop(self) -> None:
        """Leave the broker."""
        if self._consumer is not None:
            # Bounded, since a client may wait for a broker that is gone.
            async with asyncio.timeout(STALLED_SECONDS):
                await self._consumer.stop()

    async def write(self, partition: int, incarnation: str, value: bytes) -> None:
        """Write one record and return when the broker has it.

        Raises
        ------
        PublishError
            Where it does not say so in time. The record may be there or come all the same.
        """
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._producer.send_and_wait(
                    self._name, value, key=incarnation.encode(), partition=partition
                )
        except (KafkaError, TimeoutError) as error:
            raise PublishError(f"{self._name}-{partition}: not written: {error!r}") from error

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset that is still there, and the one after the last."""
        tp = TopicPartition(self._name, partition)
        begins = await self._consumer.beginning_offsets([tp])
        ends = await self._consumer.end_offsets([tp])
        end = await end_offset(self._settings, self._name, partition, ends[tp])
        return begins[tp], end

    def follow(self, partition: int, position: int) -> None:
        """Read from `position` of a partition from now on."""
        self._followed = TopicPartition(self._name, partition)
        self._consumer.assign([self._followed])
        self._consumer.seek(self._followed, position)
        self.position = position

    async def read(self) -> Sequence[Received]:
        """Return the next records, none where none came for half a second.

        Raises
        ------
        KafkaError
            Where the broker refuses. While it is away there is nothing to read.
        """
        fetched = await self._consumer.getmany(timeout_ms=_PATIENCE_MS)
        records = fetched.get(self._followed)
        if not records:
            return ()
        received = await in_thread(_decode_all, records)
        self.position = received[-1].offset + 1
        return received

    async def read_to(self, end: int) -> AsyncGenerator[Sequence[Received], None]:
        """Read until `position` has reached `end`.

        Raises
        ------
        BrokerUnavailableError
            Where nothing comes for long.
        """
        heard_at = time.monotonic()
        while self.position < end:
            received = await self.read()
            if received:
                heard_at = time.monotonic()
                yield received
            elif time.monotonic() - heard_at > STALLED_SECONDS:
                raise BrokerUnavailableError(
                    f"{self._settings.broker} fell silent while {self._name} was read"
                )

    def heard_ms(self) -> int | None:
        """When the broker last said that there is nothing more to read, ms since the Unix epoch.

        None where it has not said so yet, or said that there is more.
        """
        highwater = self._consumer.highwater(self._followed)
        if highwater is None or self.position < highwater:
            return None
        heard: int = self._consumer.last_poll_timestamp(self._followed)
        return heard

    async def newest_snapshot(self, beyond: int) -> ArraySet | None:
        """Return the last whole snapshot, where its position lies beyond `beyond`; else None.

        The topic is read from further and further back, so that no more than a few snapshots'
        length of it is read.
        """
        begin, end = await self.bounds(SNAPSHOTS)
        back = 1
        while end > begin:
            start = max(begin, end - back)
            newest, last = await self._read_snapshots(start, end)
            if newest is not None:
                return newest if newest.origin.position > beyond else None
            if start == begin or (last is not None and last.origin.position <= beyond):
                return None
            back *= _LOOK_BACK_TIMES
        return None

    async def _read_snapshots(self, start: int, end: int) -> tuple[ArraySet | None, Part | None]:
        """Return the last whole snapshot from `start` on, and the last part that can be read."""
        assembler = Assembler()
        newest, last = None, None
        self.follow(SNAPSHOTS, start)
        async with aclosing(self.read_to(end)) as batches:
            async for batch in batches:
                for offset, _, part in batch:
                    if isinstance(part, Part):
                        newest = assembler.add(part, offset, 0.0) or newest
                        last = part
        return newest, last


def _decode_all(records: Sequence[Any]) -> list[Received]:
    return [
        Received(record.offset, len(record.value or b""), _decoded(record)) for record in records
    ]


def _decoded(record: Any) -> Part | UnreadableRecordError:
    try:
        return decode(record.value)
    except UnreadableRecordError as error:
        return error
