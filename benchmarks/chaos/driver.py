"""Feeds an engine without Faust: a plain consumer of assigned partitions, cut into chunks."""

from collections.abc import Mapping, Set

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from faust.types import TP

from benchmarks.chaos.facts import SOURCE_TOPICS
from streams.engine import Engine
from streams.settings import Settings
from streams.transport import FETCH_MAX_WAIT_MS, Chunk, cut, interleave

FETCH_MS = 20


class Driver:
    """Hands an engine its chunks as `streams.transport` does, and answers it about offsets.

    A chunk starts where the one before it ended, or where the last seek went, so offsets without
    a record are covered too.

    Parameters
    ----------
    settings, engine
        The worker's.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._covered: dict[TopicPartition, int] = {}
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers(),
            client_id=settings.app_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            **settings.client_security(),
        )

    async def start(self) -> None:
        """Connect."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    def assign(self, numbers: Set[int]) -> None:
        """Consume exactly these partitions of every source topic."""
        tps = [TopicPartition(topic, number) for topic in SOURCE_TOPICS for number in numbers]
        self._covered.clear()
        self._consumer.assign(tps)

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the first offset still there."""
        found = await self._consumer.beginning_offsets([TopicPartition(*tp) for tp in partitions])
        return {TP(*tp): offset for tp, offset in found.items()}

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the offset after the last record."""
        found = await self._consumer.end_offsets([TopicPartition(*tp) for tp in partitions])
        return {TP(*tp): offset for tp, offset in found.items()}

    async def reposition(self, offsets: Mapping[TP, int]) -> None:
        """Seek those partitions that are assigned."""
        assigned = self._consumer.assignment()
        for tp, offset in offsets.items():
            if (place := TopicPartition(*tp)) in assigned:
                self._consumer.seek(place, offset)
                self._covered[place] = offset

    async def run(self) -> None:
        """Feed the engine for ever."""
        while True:
            fetched = await self._consumer.getmany(
                timeout_ms=FETCH_MS, max_records=2 * self._settings.chunk_records
            )
            # From here to the chunks nothing awaits: no seek can come between.
            chunks = {TP(*tp): self._cover(tp, records) for tp, records in fetched.items()}
            for tp in list(self._covered):
                if tp not in fetched and (passed := self._cover_nothing(tp)) is not None:
                    chunks[TP(*tp)] = [passed]
            for _, chunk in interleave(chunks):
                await self._engine.process(chunk)

    def _cover(self, tp: TopicPartition, records: list[ConsumerRecord]) -> list[Chunk]:
        start = min(self._covered.get(tp, records[0].offset), records[0].offset)
        self._covered[tp] = records[-1].offset + 1
        highwater = max(self._consumer.highwater(tp) or 0, records[-1].offset + 1)
        chunks = []
        for part in cut(records, self._settings.chunk_records, self._settings.chunk_bytes):
            end = part[-1].offset + 1
            chunks.append(Chunk(tp.topic, tp.partition, start, end, tuple(part), highwater))
            start = end
        return chunks

    def _cover_nothing(self, tp: TopicPartition) -> Chunk | None:
        """Cover offsets that the consumer has passed without finding a record."""
        state = self._consumer._subscription.subscription.assignment.state_value(tp)
        start = self._covered[tp]
        if state is None or not state.has_valid_position or state.position <= start:
            return None
        end = self._covered[tp] = state.position
        return Chunk(tp.topic, tp.partition, start, end, (), max(state.highwater or end, end))
