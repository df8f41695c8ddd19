"""One side of the transport benchmark: ``python -m benchmarks.transport_side SIDE URL EVENTS``.

A Faust worker in a process of its own whose only agent counts the records of `clicks`, and checks
that no offset is missed or repeated. The sides differ in the transport alone: `plain` is Faust's
own, one message per record; `batch` is the engine's, one message per chunk of records. Prints one
line of JSON after EVENTS events.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import faust
import msgspec
from faust.serializers import codecs
from faust.types import TP
from faust.types.transports import TransportT
from msgspec import Struct

from streams.settings import Settings
from streams.transport import BatchTransport, Chunk

TOPIC = "clicks"
SIDES = ("plain", "batch")
SESSION_SECONDS = 4.0


class Counted(Struct):
    """What a side did.

    Attributes
    ----------
    events
        Events seen, those of the first message included.
    timed_events, seconds
        Events after the first message, and the time that they took.
    problems
        Offsets missed or repeated.
    """

    events: int
    timed_events: int
    seconds: float
    problems: list[str]


class Counter:
    """Counts events and the time since the first message; checks the offsets.

    Parameters
    ----------
    wanted
        Report when so many events were seen.
    report
        Called then.
    """

    def __init__(self, wanted: int, report: Callable[[Counted], None]) -> None:
        self._wanted = wanted
        self._report = report
        self._events = 0
        self._first: tuple[int, float] | None = None
        self.next_offsets: dict[int, int] = {}
        self._problems: list[str] = []

    def count(self, partition: int, start: int, end: int) -> None:
        """Count the offsets from `start` to before `end`."""
        expected = self.next_offsets.get(partition, 0)
        if start != expected:
            self._problems.append(f"partition {partition}: offset {start} after {expected}")
        self.next_offsets[partition] = end
        self._events += end - start
        now = time.perf_counter()
        if self._first is None:
            self._first = (self._events, now)
        if self._events >= self._wanted:
            before, since = self._first
            timed = self._events - before
            self._report(Counted(self._events, timed, now - since, self._problems))


class _Untouched(codecs.Codec):
    def _loads(self, s: bytes) -> Any:
        return s

    def _dumps(self, s: Any) -> bytes:
        raise TypeError(f"nothing is sent through Faust, least of all {s!r}")


codecs.register("untouched", _Untouched())


class BatchApp(faust.App):
    """A Faust app on the engine's transport."""

    batched_topics = frozenset({TOPIC})
    counter: Counter

    def _new_transport(self) -> TransportT:
        return BatchTransport(self.conf.broker_consumer, self)

    def next_offsets(self) -> Mapping[TP, int]:
        """Return where to begin: everywhere at 0, or after what was counted."""
        partitions = self.conf.topic_partitions
        return {TP(TOPIC, p): self.counter.next_offsets.get(p, 0) for p in range(partitions)}

    def durable_offset(self, tp: TP) -> int | None:
        """Return what was counted: nothing here is durable otherwise."""
        return self.counter.next_offsets.get(tp.partition)


def build(side: str, url: str, counter: Counter, directory: str) -> faust.App:
    """Build the app of a side; Faust keeps its own files in `directory`."""
    settings = Settings(broker=url)
    kind = BatchApp if side == "batch" else faust.App
    app = kind(
        f"transport-{side}-{os.getpid()}",
        broker=url,
        store="memory://",
        datadir=directory,
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=2 * settings.chunk_records,
        # The embedded broker keeps a new member waiting for half of this.
        broker_session_timeout=SESSION_SECONDS,
        broker_heartbeat_interval=1.0,
        web_enabled=False,
    )
    if isinstance(app, BatchApp):
        app.counter = counter
        app.conf.stream_buffer_maxsize = 16
        app.__dict__.update(chunk_records=settings.chunk_records, chunk_bytes=settings.chunk_bytes)
        add_batch_agent(app, counter)
    else:
        add_plain_agent(app, counter)
    return app


def add_batch_agent(app: faust.App, counter: Counter) -> None:
    """Add the agent that gets a chunk at a time."""

    async def count_chunks(stream: faust.StreamT[Chunk]) -> None:
        async for chunk in stream:
            counter.count(chunk.partition, chunk.start, chunk.end)

    channel = app.topic(TOPIC, value_type=None, value_serializer="untouched", key_serializer="raw")
    app.agent(channel, name="count")(count_chunks)


def add_plain_agent(app: faust.App, counter: Counter) -> None:
    """Add the agent that gets a record at a time."""

    async def count_records(stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            message = event.message
            counter.count(message.partition, message.offset, message.offset + 1)

    channel = app.topic(TOPIC, value_type=None, value_serializer="raw", key_serializer="raw")
    app.agent(channel, name="count")(count_records)


def main() -> None:
    """Read side, URL, number of events and a directory from the arguments, and count."""
    side, url, events, directory = sys.argv[1:]
    # Faust paints a spinner on standard output, even into a pipe: it gets the log instead.
    results = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(counted: Counted) -> None:
        os.write(results, msgspec.json.encode(counted) + b"\n")
        # Leaving the group in order takes Faust seconds, and nothing here is worth saving.
        os._exit(0)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = build(side, url, Counter(int(events), report), directory)
    worker = faust.Worker(app, loop=loop, loglevel="warning", quiet=True, redirect_stdouts=False)
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
