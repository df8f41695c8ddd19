"""The batching transport on Apache Kafka, whose partitions end in offsets that hold no record.

What is committed is applied once, what is aborted is not, and the markers that end transactions are
passed like records: by the worker's own lag, and by the group's offsets, which lag tools read.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.producer import AIOKafkaProducer

from streams.settings import DEFAULT_APP_ID
from tests.streams.fresh_kafka import Kafka
from tests.streams.transactional import transaction, transactional
from tests.streams.workers import (
    EVENT_TOPICS,
    PARTITIONS,
    Sent,
    WorkerProcess,
    chat,
    click,
    order,
    send,
)

pytestmark = pytest.mark.kafka

CUSTOMERS = [f"customer-{number}" for number in range(40)]


@pytest.fixture
def worker(own_kafka: Kafka, tmp_path: Path) -> WorkerProcess:
    return WorkerProcess(own_kafka.url, tmp_path / "data", checkpoint_seconds=0.05)


def events(run: int) -> list[Sent]:
    """Return a click, an order and a chat of each customer; no other run's have their ids."""
    records: list[Sent] = []
    for customer in CUSTOMERS:
        records += [click(customer, run), order(customer, run, ("mug", 2, 1.5))]
        records.append(chat(customer, run, "thank you"))
    return records


EACH = len(EVENT_TOPICS) * len(CUSTOMERS)
"""How many events a run has."""


async def ends(broker: Kafka) -> dict[TopicPartition, int]:
    """Return the end offset of every partition of the events' topics."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.url.removeprefix("kafka://"))
    await consumer.start()
    try:
        every = [TopicPartition(t, number) for t in EVENT_TOPICS for number in range(PARTITIONS)]
        return dict(await consumer.end_offsets(every))
    finally:
        await consumer.stop()


async def last_records(broker: Kafka) -> dict[TopicPartition, int]:
    """Return the offset of each partition's last committed record."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.url.removeprefix("kafka://"),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    wanted = await ends(broker)
    last: dict[TopicPartition, int] = {}
    await consumer.start()
    try:
        consumer.assign(list(wanted))
        while [tp for tp, end in wanted.items() if await consumer.position(tp) < end]:
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                last[tp] = records[-1].offset
        return last
    finally:
        await consumer.stop()


async def group_offsets(broker: Kafka) -> Mapping[TopicPartition, int]:
    """Return the offsets that the workers' group has committed for the events' topics."""
    client = AIOKafkaAdminClient(bootstrap_servers=broker.url.removeprefix("kafka://"))
    await client.start()
    try:
        committed = await client.list_consumer_group_offsets(DEFAULT_APP_ID)
        return {tp: each.offset for tp, each in committed.items() if tp.topic in EVENT_TOPICS}
    finally:
        await client.close()


async def drained(worker: WorkerProcess, broker: Kafka, count: int) -> None:
    """Wait until the worker has applied `count` events, sees no lag, and lag tools see none."""
    await asyncio.to_thread(worker.applied, count)
    await asyncio.to_thread(worker.until, "no lag", lambda: worker.metric("crm_consumer_lag") == 0)
    wanted = await ends(broker)
    committed: Mapping[TopicPartition, int] = {}
    for _ in range(300):
        committed = await group_offsets(broker)
        if committed == wanted:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"committed: {committed}, ends: {wanted}\n{worker.log[-3000:]}")


def check(worker: WorkerProcess, runs: int) -> None:
    """Compare every customer's profile with `runs` runs, each applied once."""
    once = Counter(clicks=1, orders=1, items_bought=2, chats=1)
    for customer in CUSTOMERS:
        profile = worker.profile(customer)
        assert {name: profile[name] for name in once} == {
            name: count * runs for name, count in once.items()
        }, customer
    assert worker.metric("crm_events_duplicate_total") == 0


async def commit_and_abort(producer: AIOKafkaProducer, first_run: int) -> None:
    """Commit two runs of events and abort one; what is aborted comes between and at the end."""
    await transaction(producer, events(first_run), commit=True)
    await transaction(producer, events(first_run + 1), commit=False)
    await transaction(producer, events(first_run + 2), commit=True)
    await transaction(producer, events(first_run + 1), commit=False)


async def test_a_backlog_of_transactions_is_applied_to_the_end_whatever_the_end_is(
    own_kafka: Kafka, worker: WorkerProcess
) -> None:
    async with transactional(own_kafka.url, "shop") as producer:
        await commit_and_abort(producer, 0)
    last = await last_records(own_kafka)
    # All of them end in the records of an aborted transaction and in markers.
    assert all(end > last[tp] + 2 for tp, end in (await ends(own_kafka)).items())
    worker.start()
    await asyncio.to_thread(worker.ready)
    await drained(worker, own_kafka, 2 * EACH)
    check(worker, runs=2)
    assert worker.stop() == 0


async def test_transactions_that_come_while_a_worker_waits_leave_no_lag_behind(
    own_kafka: Kafka, worker: WorkerProcess
) -> None:
    worker.start()
    await asyncio.to_thread(worker.ready)
    async with transactional(own_kafka.url, "shop") as producer:
        await commit_and_abort(producer, 0)
        await drained(worker, own_kafka, 2 * EACH)
        # Nothing comes with these that could be applied, and yet they are to be passed.
        for _ in range(2):
            await transaction(producer, events(7), commit=False)
            await drained(worker, own_kafka, 2 * EACH)
    check(worker, runs=2)
    assert worker.stop() == 0


async def test_a_worker_that_restarts_beyond_the_last_record_goes_on_from_there(
    own_kafka: Kafka, worker: WorkerProcess
) -> None:
    worker.start()
    await asyncio.to_thread(worker.ready)
    async with transactional(own_kafka.url, "shop") as producer:
        for turn in range(2):
            await commit_and_abort(producer, turn * 10)
            await drained(worker, own_kafka, 2 * EACH)
            assert worker.stop() == 0
            worker.start()
            await asyncio.to_thread(worker.ready)
            check(worker, runs=2 * (turn + 1))
    # What comes after the restart is found as well, be it in a transaction or not.
    await send(own_kafka.url, events(99))
    await drained(worker, own_kafka, EACH)
    check(worker, runs=5)
    assert worker.stop() == 0
    assert "hole" not in worker.log


async def test_a_worker_killed_amid_transactions_applies_what_was_committed_once(
    own_kafka: Kafka, worker: WorkerProcess
) -> None:
    worker.start()
    await asyncio.to_thread(worker.ready)
    async with transactional(own_kafka.url, "shop") as producer:
        for turn in range(2):
            await commit_and_abort(producer, turn * 10)
            worker.kill()
            await transaction(producer, events(turn * 10 + 5), commit=False)
            worker.start()
            await asyncio.to_thread(worker.ready)
    await send(own_kafka.url, events(99))

    def seen() -> int:
        return sum(worker.profile(customer)["clicks"] for customer in CUSTOMERS)

    await asyncio.to_thread(
        worker.until, "everything is applied", lambda: seen() == 5 * len(CUSTOMERS)
    )
    await drained(worker, own_kafka, 0)
    check(worker, runs=5)
    assert worker.stop() == 0
