"""Replay: records from files to a topic, as fast as the broker takes them, or in time.

Lines go out as they are in the file, in the file's order within a partition, keyed as the topic
wants it. What cannot be keyed is an error with file and line; nothing is left out but blank lines.
"""

import asyncio
import gzip
import sys
import time
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from streams import topics
from streams.errors import BrokerUnavailableError, PublishError, ReplayError
from streams.partitioner import partitions_of
from streams.records import Id, Timestamp, milliseconds_of, text_of
from streams.replay_formats import ReplayFormat
from streams.settings import Settings

STDIN = Path("-")
READ_BYTES = 1 << 18
LINE_MAX_BYTES = 16 << 20
BATCH_BYTES = 1 << 18
IN_FLIGHT_MAX = 64
"""Record batches that wait for the broker's receipt, at most."""

_CHUNK_LINES = 2_000
# Not shorter, so that a high rate goes out in batches, and rounding cannot stop the time.
_SHORTEST_SLEEP_SECONDS = 0.001
_LONGEST_SLEEP_SECONDS = 1.0


class Line(NamedTuple):
    """One record to produce.

    Attributes
    ----------
    key
        The record's key.
    value
        The record, as bytes of JSON.
    ts_ms
        Its event time in milliseconds since the Unix epoch; 0 where nobody asked for it.
    """

    key: str
    value: bytes
    ts_ms: int


@dataclass(frozen=True, slots=True)
class Pace:
    """When the records go out.

    Attributes
    ----------
    rate
        Records per second, or None for as fast as possible.
    speedup
        Event time passes this many times faster than the clock, or None to ignore it. A record
        older than one before it goes out at once.

    Examples
    --------
    >>> Pace(rate=10).due_seconds(count=5, elapsed_ts_ms=0)
    0.5
    >>> Pace(speedup=60).due_seconds(count=5, elapsed_ts_ms=120_000)
    2.0
    """

    rate: float | None = None
    speedup: float | None = None

    def due_seconds(self, count: int, elapsed_ts_ms: int) -> float:
        """Return when a record is due, in seconds since the start.

        Parameters
        ----------
        count
            Records before it.
        elapsed_ts_ms
            Its event time less the first record's, milliseconds.
        """
        if self.rate is not None:
            return count / self.rate
        if self.speedup is not None:
            return elapsed_ts_ms / 1_000 / self.speedup
        return 0.0


Chunks = Iterator[list[Line]]


def json_lines(paths: Sequence[Path], key_field: str, *, timed: bool) -> Chunks:
    """Read JSON lines; a path that ends in ``.gz`` is unpacked, ``-`` is standard input.

    Parameters
    ----------
    key_field
        The field that becomes the record's key.
    timed
        Whether to read event times, from the field ``ts``.

    Yields
    ------
    Up to as many lines as one read gave, so that a slow pipe is passed on as it comes.

    Raises
    ------
    ReplayError
        With file and line, once all lines before it were yielded.
    """
    wanted: list[Any] = [("key", Id)]
    if timed:
        wanted.append(("ts", Timestamp))
    envelope = msgspec.defstruct("Record", wanted, rename={"key": key_field})
    decode = msgspec.json.Decoder(envelope).decode
    for path in paths:
        number = 0
        for raw_lines in _raw_lines(path):
            lines: list[Line] = []
            for raw in raw_lines:
                number += 1
                if not raw.strip():
                    continue
                try:
                    record: Any = decode(raw)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    yield lines
                    raise ReplayError(f"{path}: line {number}: {error}") from error
                ts_ms = milliseconds_of(record.ts) if timed else 0
                lines.append(Line(text_of(record.key), raw, ts_ms))
            yield lines


def formatted(paths: Sequence[Path], form: ReplayFormat) -> Chunks:
    """Read data sets in their own format.

    Raises
    ------
    ReplayError
        With file and line, once all records before it were yielded.
    """
    encode = msgspec.json.Encoder().encode
    for path in paths:
        lines: list[Line] = []
        try:
            for key, record in form.read(path):
                lines.append(Line(key, encode(record), milliseconds_of(record["ts"])))
                if len(lines) == _CHUNK_LINES:
                    yield lines
                    lines = []
        except ReplayError:
            yield lines
            raise
        yield lines


async def replay(
    settings: Settings,
    topic: str,
    partitions: int,
    chunks: Chunks,
    pace: Pace | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> int:
    """Produce records to a topic and wait for every receipt.

    Parameters
    ----------
    partitions
        How many partitions the topic has.
    chunks
        From `json_lines` or `formatted`; read in a thread.
    pace
        When to send; as fast as the broker takes them where None.
    on_progress
        Told the number of records sent so far.
    clock, sleep
        The time in seconds, and how to let it pass.

    Returns
    -------
    How many records were produced.

    Raises
    ------
    ReplayError
        A record that cannot be read; it tells how many were sent before.
    PublishError
        The broker refused a record.
    BrokerUnavailableError
        No broker answers.
    """
    count = 0
    async with producer(settings) as client:
        sender = BulkSender(client, topic, partitions)
        try:
            async for due in _in_time(chunks, pace or Pace(), clock, sleep):
                await sender.send(due)
                count += len(due)
                on_progress(count)
        except ReplayError as error:
            await sender.settle()
            raise ReplayError(f"{error} (records sent before it: {count:,})") from error
        await sender.settle()
    return count


async def _in_time(
    chunks: Chunks,
    pace: Pace,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncIterator[list[Line]]:
    """Yield the lines in order, each as soon as it is due."""
    start = clock()
    count, first_ts_ms, latest = 0, None, 0.0
    # In a thread, since a pipe may keep a reader waiting while records are on their way.
    while (lines := await asyncio.to_thread(next, chunks, None)) is not None:
        due_times = []
        for line in lines:
            first_ts_ms = line.ts_ms if first_ts_ms is None else first_ts_ms
            latest = max(latest, pace.due_seconds(count, line.ts_ms - first_ts_ms))
            due_times.append(latest)
            count += 1
        sent = 0
        while sent < len(lines):
            elapsed = clock() - start
            due = bisect_right(due_times, elapsed, sent)
            if due == sent:
                wanted = max(due_times[sent] - elapsed, _SHORTEST_SLEEP_SECONDS)
                await sleep(min(wanted, _LONGEST_SLEEP_SECONDS))
                continue
            yield lines[sent:due]
            sent = due


class BulkSender:
    """Sends lines in record batches built here, which is ten times faster than one by one."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._receipts: deque[Awaitable[Any]] = deque()

    async def send(self, lines: Sequence[Line]) -> None:
        """Hand lines to the producer, each in the partition of its key."""
        numbers = partitions_of([line.key for line in lines], self._partitions)
        grouped: dict[int, list[Line]] = {}
        for number, line in zip(numbers.tolist(), lines, strict=True):
            grouped.setdefault(number, []).append(line)
        for number, group in grouped.items():
            await self._send_to(number, group)

    async def settle(self, in_flight: int = 0) -> None:
        """Wait until at most `in_flight` batches have no receipt yet."""
        while len(self._receipts) > in_flight:
            try:
                await self._receipts.popleft()
            except KafkaError as error:
                raise PublishError(f"{self._topic}: the broker refused records: {error}") from error

    async def _send_to(self, partition: int, lines: Sequence[Line]) -> None:
        position = 0
        while position < len(lines):
            batch = self._producer.create_batch()
            first = position
            while position < len(lines):
                line = lines[position]
                if batch.append(key=line.key.encode(), value=line.value, timestamp=None) is None:
                    break
                position += 1
            assert position > first, "an empty batch takes a record of any size"
            await self.settle(IN_FLIGHT_MAX - 1)
            self._receipts.append(
                await self._producer.send_batch(batch, self._topic, partition=partition)
            )


@asynccontextmanager
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """Open a producer for bulk loads; the default partitioner is Kafka's own (murmur2).

    Raises
    ------
    BrokerUnavailableError
        No broker answers.
    """
    client = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers(),
        client_id=settings.app_id,
        acks="all",
        max_batch_size=BATCH_BYTES,
        **settings.client_security(),
    )
    try:
        await client.start()
    except KafkaConnectionError as error:
        await client.stop()
        raise BrokerUnavailableError(f"no broker answers at {settings.broker}") from error
    try:
        yield client
    finally:
        await client.stop()


def key_field_of(topic: str) -> str:
    """Return the field of a topic's records that is their key; ``customer_id`` where unknown."""
    known = topics.find(topic)
    return topics.CLICKS.key_field if known is None else known.key_field


def _raw_lines(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines that each read completes, without their ends."""
    rest = b""
    try:
        with _open(path) as file:
            # read1 gives what is there, so that a pipe's lines do not wait for more.
            while piece := file.read1(READ_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > LINE_MAX_BYTES:
                    raise ReplayError(f"{path}: a line is longer than {LINE_MAX_BYTES:,} bytes")
                yield lines
    except (OSError, EOFError, zlib.error) as error:
        raise ReplayError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if rest:
        yield [rest]


def _open(path: Path) -> Any:
    if path == STDIN:
        # Not closed, since it is not ours.
        return nullcontext(sys.stdin.buffer)
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")
