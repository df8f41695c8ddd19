"""An independent consumer, a process of its own: ``python -m benchmarks.listener PLAN``.

The plan is JSON. It reads the recommendations and notes when each arrived. It prints ``{}`` once
it listens, and, after a line on its standard input, what it has heard as one line of JSON.
"""

import asyncio
import sys
import time

import msgspec
from aiokafka import AIOKafkaConsumer
from msgspec import Struct, field

from streams.settings import Settings

FETCH_WAIT_MS = 20
SILENCE_SECONDS = 1.0


class Trigger(Struct):
    """The newest event that a list reflects."""

    event_id: str


class Recommendation(Struct):
    """What is read of a record of `recommendations`."""

    customer_id: str
    trigger: Trigger


class Heard(Struct):
    """The lists in their order of arrival, as columns; `arrived_ms` is wall-clock time."""

    customers: list[str] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)
    arrived_ms: list[float] = field(default_factory=list)


class ListenerPlan(Struct, frozen=True):
    """Where to listen: the broker's URL and the topic."""

    broker: str
    topic: str


async def listen(plan: ListenerPlan, told_to_stop: asyncio.Event) -> Heard:
    """Collect lists until told to stop and nothing more comes."""
    heard = Heard()
    decoder = msgspec.json.Decoder(Recommendation)
    consumer = AIOKafkaConsumer(
        plan.topic,
        bootstrap_servers=Settings(broker=plan.broker).bootstrap_servers(),
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        # The embedded broker looks for new records only four times in this span.
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=4 << 20,
    )
    async with consumer:
        print("{}", flush=True)
        last_news = time.monotonic()
        while not told_to_stop.is_set() or time.monotonic() - last_news < SILENCE_SECONDS:
            fetched = await consumer.getmany(timeout_ms=100)
            now_ms = time.time() * 1_000
            for records in fetched.values():
                last_news = time.monotonic()
                for record in records:
                    told = decoder.decode(record.value)
                    heard.customers.append(told.customer_id)
                    heard.event_ids.append(told.trigger.event_id)
                    heard.arrived_ms.append(now_ms)
    return heard


async def listen_until_told(plan: ListenerPlan) -> Heard:
    """Collect lists until a line comes in on standard input."""
    told_to_stop = asyncio.Event()

    async def wait_for_line() -> None:
        await asyncio.to_thread(sys.stdin.readline)
        told_to_stop.set()

    waiting = asyncio.create_task(wait_for_line())
    heard = await listen(plan, told_to_stop)
    await waiting
    return heard


def main() -> None:
    """Read the plan from the first argument, listen, and print what was heard."""
    plan = msgspec.json.decode(sys.argv[1], type=ListenerPlan)
    heard = asyncio.run(listen_until_told(plan))
    sys.stdout.buffer.write(msgspec.json.encode(heard) + b"\n")


if __name__ == "__main__":
    main()
