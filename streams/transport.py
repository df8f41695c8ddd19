"""Batches in: a Faust transport whose consumer yields one message per chunk of records.

Faust spends about 100 µs on every message it sees, so the message it sees here is a `Chunk`: up
to a bounded number of consecutive records of one topic partition, with the half-open range of
offsets that the chunk covers. Agents stay Faust agents.

Only topics in ``app.batched_topics`` are batched; everything else in Faust works as ever.

What a chunk covers is decided in the consumer's own thread, where fetching and seeking cannot
interleave: a chunk starts where the one before it ended, or where the last seek went. Offsets
that hold no record (transaction markers, compacted records) are thereby covered too, and a
receiver can tell a hole (``start`` beyond what it expects) from a harmless jump.

Overridden in Faust 0.15.3, and nothing else (``tests/streams/test_transport_contract.py`` fails
with a clear message when one of these changes): ``App._new_transport`` (in ``streams/app.py``),
``Consumer.getmany``, ``Consumer.seek_to_committed``, ``Consumer._new_offset``,
``Consumer._add_gap``, ``Consumer._new_consumer_thread``, ``ConsumerThread.getmany`` and
``AIOKafkaConsumerThread._create_worker_consumer``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiokafka import ConsumerRecord, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

FETCH_MAX_WAIT_MS = 20
"""How long a broker may hold a fetch back for want of records. Apache Kafka answers as soon as
there are some; the embedded broker only looks again when this time is over."""


CREATE_TIME = 0
"""Kafka's number for a timestamp set by the producer."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one topic partition.

    Attributes
    ----------
    topic, partition
        Where the records come from.
    start, end
        The half-open range of offsets covered. Offsets in it without a record do not exist.
    records
        In offset order. None where only offsets without a record were passed, as when the last
        thing in a partition is the marker of a transaction.
    highwater
        The partition's end offset when the chunk was fetched; ``end`` where it is unknown.
    """

    topic: str
    partition: int
    start: int
    end: int
    records: tuple[ConsumerRecord, ...]
    highwater: int


class BatchingApp(Protocol):
    """What the transport needs to know of the application."""

    batched_topics: frozenset[str]
    chunk_records: int
    chunk_bytes: int
    consumer_generation_id: int

    def next_offsets(self) -> Mapping[TP, int]:
        """Return the next offset to apply of every open topic partition."""

    def durable_offset(self, tp: TP) -> int | None:
        """Return the offset below which everything is durable, or None where unknown."""


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Fetches in its own thread and decides there what each chunk covers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._covered: dict[TP, int] = {}
        self._generation = 0

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust hard-codes 1500 ms, which a quiet partition adds to the latency of a busy one.
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        consumer._isolation_level = "read_committed"
        return consumer

    async def getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's name
    ) -> Any:
        """Fetch records; those of batched topics come back as chunks."""
        return await self.call_thread(self._fetch_chunks, active_partitions, timeout)

    async def _fetch_chunks(
        self,
        active_partitions: set[TP],
        timeout: float,  # noqa: ASYNC109 - as in Faust
    ) -> dict[TP, list[Chunk] | list[ConsumerRecord]]:
        consumer = self._ensure_consumer()
        fetched = await self._fetch_records(
            consumer,
            active_partitions,
            timeout=timeout,
            max_records=self.app.conf.broker_max_poll_records,
        )
        # From here to the return nothing awaits: no seek can come between.
        self._forget_other_generations()
        batched = cast(BatchingApp, self.app).batched_topics
        chunks: dict[TP, list[Chunk] | list[ConsumerRecord]] = {
            tp: self._cover(consumer, tp, records) if tp.topic in batched else records
            for tp, records in fetched.items()
            if records
        }
        for tp in tuple(active_partitions):
            if tp not in chunks and tp in self._covered:
                chunks[tp] = self._cover_nothing(consumer, tp)
        return chunks

    def _forget_other_generations(self) -> None:
        """Forget what was covered before a rebalance: another worker may have gone on from there.

        A chunk then starts at its first record until the next seek says otherwise.
        """
        generation = cast(BatchingApp, self.app).consumer_generation_id
        if generation != self._generation:
            self._generation = generation
            self._covered.clear()

    def _cover_nothing(self, consumer: AIOKafkaConsumer, tp: TP) -> list[Chunk]:
        """Cover offsets that the consumer has passed without finding a record."""
        start, assigned = self._covered[tp], TopicPartition(tp.topic, tp.partition)
        if assigned not in consumer.assignment():
            return []
        state = consumer._subscription.subscription.assignment.state_value(assigned)
        if not state.has_valid_position or state.position <= start:
            return []
        end = self._covered[tp] = state.position
        return [Chunk(tp.topic, tp.partition, start, end, (), max(state.highwater or end, end))]

    def _cover(
        self, consumer: AIOKafkaConsumer, tp: TP, records: list[ConsumerRecord]
    ) -> list[Chunk]:
        app = cast(BatchingApp, self.app)
        start = min(self._covered.get(tp, records[0].offset), records[0].offset)
        end = records[-1].offset + 1
        self._covered[tp] = end
        highwater = end
        if TopicPartition(tp.topic, tp.partition) in consumer.assignment():
            highwater = max(consumer.highwater(tp) or end, end)
        chunks = []
        for part in cut(records, app.chunk_records, app.chunk_bytes):
            stop = part[-1].offset + 1
            chunks.append(Chunk(tp.topic, tp.partition, start, stop, tuple(part), highwater))
            start = stop
        return chunks

    async def reposition(self, offsets: Mapping[TP, int]) -> None:
        """Seek assigned partitions; what is fetched from now on starts there."""
        await self.call_thread(self._reposition, dict(offsets))

    async def _reposition(self, offsets: dict[TP, int]) -> None:
        self._forget_other_generations()
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, offset in offsets.items():
            if TopicPartition(tp.topic, tp.partition) in assigned:
                consumer.seek(TopicPartition(tp.topic, tp.partition), offset)
                self._covered[tp] = offset
                # Faust drops what lies below its own read offset, so that must go back too.
                self.consumer._read_offset[tp] = offset or None


def cut(
    records: list[ConsumerRecord], max_records: int, max_bytes: int
) -> Iterator[list[ConsumerRecord]]:
    """Cut `records` into runs of at most `max_records` records and about `max_bytes` bytes.

    A run holds at least one record, so a single record may exceed `max_bytes`.
    """
    run: list[ConsumerRecord] = []
    size = 0
    for record in records:
        length = len(record.value or b"") + len(record.key or b"")
        if run and (len(run) >= max_records or size + length > max_bytes):
            yield run
            run, size = [], 0
        run.append(record)
        size += length
    if run:
        yield run


def interleave(fetched: Mapping[TP, Iterable[Any]]) -> Iterator[tuple[TP, Any]]:
    """Take one element of each partition in turn, so that no topic starves another."""
    for turn in zip_longest(*([(tp, item) for item in items] for tp, items in fetched.items())):
        yield from (pair for pair in turn if pair is not None)


class BatchConsumer(driver.Consumer):
    """A Faust consumer that hands on chunks and commits only what is durable."""

    _thread: BatchConsumerThread

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(
        self,
        timeout: float,  # noqa: ASYNC109 - Faust's name
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield what was fetched, as long as the partitions stay ours and flow is on."""
        fetched, active = await self._wait_next_records(timeout)
        app = cast(BatchingApp, self.app)
        generation = app.consumer_generation_id
        if fetched is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        for tp, item in interleave(cast(Mapping[TP, Iterable[Any]], fetched)):
            if not self.flow_active or app.consumer_generation_id != generation:
                return
            if active is None or tp in active or tp in self._buffered_partitions:
                if isinstance(item, Chunk):
                    # Faust would drop what lies below the last message; the receiver of a chunk
                    # knows better, and Faust may have noted a message from before a seek.
                    self._read_offset[tp] = None
                yield tp, self._as_message(tp, item)

    def _as_message(self, tp: TP, item: Chunk | ConsumerRecord) -> ConsumerMessage:
        if not isinstance(item, Chunk):
            return self._to_message(tp, item)
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=item.end - 1,
            timestamp=item.records[-1].timestamp / 1000 if item.records else 0.0,
            timestamp_type=CREATE_TIME,
            headers=None,
            key=None,
            # Faust types a value as bytes; it only ever hands it to the topic's codec.
            value=cast(bytes, item),
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=0,
            tp=tp,
            generation_id=cast(BatchingApp, self.app).consumer_generation_id,
        )

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the state's own offsets: they win over the group's."""
        offsets = cast(BatchingApp, self.app).next_offsets()
        await self._thread.reposition(offsets)
        return offsets

    async def reposition(self, offsets: Mapping[TP, int]) -> None:
        """Seek partitions that are being opened to their state's offsets."""
        await self._thread.reposition(offsets)

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic not in cast(BatchingApp, self.app).batched_topics:
            return super()._new_offset(tp)
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return cast(BatchingApp, self.app).durable_offset(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Record no gap for a chunk: its range says what it covers."""
        if tp.topic not in cast(BatchingApp, self.app).batched_topics:
            await super()._add_gap(tp, offset_from, offset_to)


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with the batching consumer."""

    Consumer = BatchConsumer
