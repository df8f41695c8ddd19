"""The load generator, a process of its own: ``python -m benchmarks.sender PLAN``.

The plan is JSON. It sends simulated traffic, as a backlog as fast as it can or at a steady rate,
and prints one line of JSON: the tally of what it sent, and when.
"""

import asyncio
import gc
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec
import orjson
from aiokafka import AIOKafkaProducer
from msgspec import Struct, field

from benchmarks.tally import Tally
from streams.partitioner import partitions_of
from streams.settings import Settings
from streams.simulator import Event, Simulator

PART = 8_192
BATCH_BYTES = 1 << 18
TICK_SECONDS = 0.005


class Traffic(Struct, frozen=True):
    """Which simulated traffic; see `streams.simulator.Simulator`."""

    seed: int
    run: int
    start_ts_ms: int
    span_ms: int
    customers: int
    items: int
    clicks: int
    purchases: int
    chats: int

    def simulator(self) -> Simulator:
        """Return the simulator of this traffic."""
        return Simulator(**msgspec.structs.asdict(self))


class Plan(Struct, frozen=True):
    """What to send.

    Attributes
    ----------
    broker
        The broker's URL.
    partitions
        Partitions of the customer-keyed topics.
    traffic
        Where the events come from.
    catalog
        Whether the catalog is sent first.
    rate
        Events per second; None sends a backlog as fast as it goes.
    limit
        Send no more than so many events.
    """

    broker: str
    partitions: int
    traffic: Traffic
    catalog: bool
    rate: int | None
    limit: int


class Sent(Struct):
    """What was sent.

    Attributes
    ----------
    tally
        The oracle's counts.
    seconds
        From the first to the last event; a backlog's last one acknowledged.
    sent_ms
        At a steady rate: the wall-clock time put into each record's timestamp, by event id.
    worst_delay_seconds
        At a steady rate: the longest that an event was sent behind its schedule.
    """

    tally: Tally
    seconds: float
    sent_ms: dict[str, int] = field(default_factory=dict)
    worst_delay_seconds: float = 0.0


class Sender:
    """Sends events in their customers' partitions through one producer."""

    def __init__(self, producer: AIOKafkaProducer, customers: list[str], partitions: int) -> None:
        self._producer = producer
        places = partitions_of(customers, partitions).tolist()
        self._partition = dict(zip(customers, places, strict=True))

    async def send_backlog(self, events: Iterator[Event], tally: Tally) -> None:
        """Send events in large batches, each topic partition in order."""
        while part := list(islice(events, PART)):
            by_partition = defaultdict(list)
            for topic, key, record in part:
                tally.add(topic, record)
                by_partition[topic, self._partition[key]].append((key, record))
            await asyncio.gather(
                *(self._send_batches(*place, pairs) for place, pairs in by_partition.items())
            )

    async def send_catalog(self, events: Iterable[Event]) -> None:
        """Send the catalog into its one partition."""
        pairs = [(key, record) for topic, key, record in events if topic == "catalog"]
        await self._send_batches("catalog", 0, pairs)

    async def _send_batches(
        self, topic: str, partition: int, pairs: list[tuple[str, dict[str, object]]]
    ) -> None:
        builder = self._producer.create_batch()
        now_ms = time.time_ns() // 1_000_000
        for key, record in pairs:
            value = orjson.dumps(record)
            if builder.append(key=key.encode(), value=value, timestamp=now_ms) is None:
                await (await self._producer.send_batch(builder, topic, partition=partition))
                builder = self._producer.create_batch()
                builder.append(key=key.encode(), value=value, timestamp=now_ms)
        await (await self._producer.send_batch(builder, topic, partition=partition))

    async def send_steadily(self, events: list[Event], rate: int, sent: Sent) -> None:
        """Send each event when it is due, whatever became of the ones before (open loop)."""
        encoded = [
            (topic, key.encode(), orjson.dumps(record), record["event_id"], self._partition[key])
            for topic, key, record in events
        ]
        # Else a collection over all that was prepared would stop the clockwork for a while.
        gc.freeze()
        acknowledged = []
        start = time.monotonic()
        done = 0
        while done < len(encoded):
            due = min(int((time.monotonic() - start) * rate) + 1, len(encoded))
            for i in range(done, due):
                topic, name, value, event_id, partition = encoded[i]
                now_ms = time.time_ns() // 1_000_000
                future = await self._producer.send(
                    topic, value, name, partition, timestamp_ms=now_ms
                )
                acknowledged.append(future)
                sent.sent_ms[event_id] = now_ms
                delay = time.monotonic() - start - i / rate
                sent.worst_delay_seconds = max(sent.worst_delay_seconds, delay)
            done = due
            await asyncio.sleep(TICK_SECONDS)
        sent.seconds = time.monotonic() - start
        await asyncio.gather(*acknowledged)


async def send(plan: Plan) -> Sent:
    """Carry out the plan; every record is acknowledged at the return."""
    simulator = plan.traffic.simulator()
    traffic = islice(simulator.traffic(), plan.limit)
    sent = Sent(Tally(), 0.0)
    servers = Settings(broker=plan.broker).bootstrap_servers()
    async with AIOKafkaProducer(
        bootstrap_servers=servers, max_batch_size=BATCH_BYTES, linger_ms=0
    ) as producer:
        sender = Sender(producer, simulator.truth.customer_ids, plan.partitions)
        if plan.catalog:
            await sender.send_catalog(simulator.reference())
        if plan.rate is None:
            start = time.monotonic()
            await sender.send_backlog(traffic, sent.tally)
            sent.seconds = time.monotonic() - start
        else:
            events = list(traffic)
            for topic, _, record in events:
                sent.tally.add(topic, record)
            await sender.send_steadily(events, plan.rate, sent)
    return sent


def main() -> None:
    """Read the plan from the first argument and print what was sent."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    sent = asyncio.run(send(plan))
    sys.stdout.buffer.write(msgspec.json.encode(sent) + b"\n")


if __name__ == "__main__":
    main()
