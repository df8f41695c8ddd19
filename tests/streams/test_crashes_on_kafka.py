"""What happens on Apache Kafka when workers, disks and transactions fail: nothing of it shows."""

import asyncio
import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.admin import create_topics
from streams.settings import Settings
from tests.streams.fresh_kafka import Kafka, delete_topics
from tests.streams.traffic import (
    CUSTOMERS,
    Truth,
    chats_of,
    check,
    events_of,
    settled,
    traffic,
)
from tests.streams.transactional import transactional
from tests.streams.workers import EVENT_TOPICS, PARTITIONS, WorkerProcess, read, send

pytestmark = pytest.mark.kafka


class Shop:
    """Kafka, the workers on it, and what must have come of everything that was sent."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.truth: Truth = Counter()
        self.workers: list[WorkerProcess] = []
        self._batches = 0

    async def open(self, name: str = "data", **settings: Any) -> WorkerProcess:
        worker = WorkerProcess(self.url, self.directory / name, **settings)
        self.workers.append(worker)
        await self.start(worker)
        return worker

    async def start(self, worker: WorkerProcess) -> None:
        worker.start()
        await asyncio.to_thread(worker.ready)

    async def sell(self, events: int = 2_000) -> None:
        self._batches += 1
        records, counted = traffic(self._batches, events)
        self.truth += counted
        await send(self.url, records)

    async def settle(self, *workers: WorkerProcess) -> None:
        """Wait until every event that was sent counts, and hold every profile against it."""
        total = events_of(self.truth)

        def counted() -> bool:
            answers = [workers[0].get(f"/v1/customers/{customer}") for customer in CUSTOMERS]
            profiles = [profile for status, profile in answers if status == 200]
            seen = sum(each[f] for each in profiles for f in ("clicks", "orders", "chats"))
            return bool(seen == total) and settled(*workers)

        await asyncio.to_thread(workers[0].until, "everything is applied", counted)
        check(workers, self.truth)

    async def stop(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                assert await asyncio.to_thread(worker.stop) == 0

    async def insights(self) -> list[str]:
        return [each["event_id"] for each in await read(self.url, "chat-insights")]


@pytest.fixture
def shop(own_kafka: Kafka, tmp_path: Path) -> Shop:
    return Shop(own_kafka.url, tmp_path)


async def test_killed_workers_with_and_without_their_disk_count_and_say_everything_once(
    shop: Shop,
) -> None:
    draw = random.Random(5)
    worker = await shop.open(checkpoint_seconds=0.05)
    for attempt in range(4):
        selling = asyncio.ensure_future(shop.sell())
        await asyncio.sleep(draw.uniform(0.05, 0.5))
        worker.kill()
        if attempt % 2:
            shutil.rmtree(worker.data_dir)
        await selling
        await shop.start(worker)
    await shop.settle(worker)
    await shop.stop()
    insights = await shop.insights()
    assert len(insights) == len(set(insights)) == chats_of(shop.truth)
    lists = await read(shop.url, "recommendations")
    assert len({each["recommendation_id"] for each in lists}) == len(lists)
    assert {each["customer_id"] for each in lists} == {customer for customer, _ in shop.truth}
    assert "guarantee: exactly once, with a changelog" in worker.log


async def test_at_least_once_outputs_may_repeat_and_none_is_missing(shop: Shop) -> None:
    draw = random.Random(6)
    worker = await shop.open(checkpoint_seconds=0.05, guarantee="at_least_once")
    for _ in range(2):
        selling = asyncio.ensure_future(shop.sell())
        await asyncio.sleep(draw.uniform(0.05, 0.5))
        worker.kill()
        shutil.rmtree(worker.data_dir)
        await selling
        await shop.start(worker)
    await shop.settle(worker)
    await shop.stop()
    assert len(set(await shop.insights())) == chats_of(shop.truth)
    assert "guarantee: at least once, with a changelog" in worker.log


async def test_a_worker_that_was_replaced_while_it_hung_is_fenced_and_doubles_nothing(
    shop: Shop,
) -> None:
    first = await shop.open("one", session_timeout_seconds=2)
    await shop.sell()
    await shop.settle(first)
    selling = asyncio.ensure_future(shop.sell(4_000))
    await asyncio.sleep(0.2)
    os.kill(first.process.pid, signal.SIGSTOP)
    second = await shop.open("two", session_timeout_seconds=2)
    await selling
    await shop.settle(second)
    os.kill(first.process.pid, signal.SIGCONT)
    await shop.sell()
    await asyncio.to_thread(first.until, "it is back", lambda: first.get("/readyz")[0] == 200)
    await shop.settle(second, first)
    await shop.stop()
    insights = await shop.insights()
    assert len(insights) == len(set(insights)) == chats_of(shop.truth)


async def test_an_output_too_large_for_the_broker_ends_the_worker_and_loses_nothing(
    shop: Shop,
) -> None:
    await configure(shop.url, "chat-insights", {"max.message.bytes": "100"})
    worker = await shop.open()
    await shop.sell()
    assert await asyncio.to_thread(worker.process.wait, 90) == 1
    assert "MessageSizeTooLarge" in worker.log.strip().splitlines()[-1]
    assert "going back to the last checkpoint" in worker.log
    await configure(shop.url, "chat-insights", {"max.message.bytes": "1048588"})
    await shop.start(worker)
    await shop.settle(worker)
    await shop.stop()
    insights = await shop.insights()
    assert len(insights) == len(set(insights)) == chats_of(shop.truth)


async def test_a_damaged_state_is_set_aside_and_rebuilt(shop: Shop) -> None:
    worker = await shop.open()
    await shop.sell()
    await shop.settle(worker)
    await shop.stop()
    for number in range(PARTITIONS):
        manifest = next((worker.data_dir / "partitions" / str(number)).glob("MANIFEST-*"))
        manifest.write_bytes(b"damaged" + manifest.read_bytes()[7:])
    await shop.start(worker)
    await shop.settle(worker)
    await shop.stop()
    aside = sorted(path.name for path in (worker.data_dir / "partitions").glob("*.aside-*"))
    assert [name.partition(".")[0] for name in aside] == [str(n) for n in range(PARTITIONS)]
    assert worker.log.count("the old one was set aside in") == PARTITIONS
    assert len(set(await shop.insights())) == chats_of(shop.truth)


async def test_a_state_ahead_of_its_changelog_is_set_aside_and_rebuilt_from_the_topics(
    shop: Shop,
) -> None:
    worker = await shop.open(guarantee="at_least_once")
    await shop.sell()
    await shop.settle(worker)
    await shop.stop()
    client = AIOKafkaAdminClient(bootstrap_servers=shop.url.removeprefix("kafka://"))
    await client.start()
    try:
        await delete_topics(client, {"crm-changelog"})
    finally:
        await client.close()
    await create_topics(Settings(broker=shop.url, partitions=PARTITIONS))
    await shop.start(worker)
    await shop.sell()
    await shop.settle(worker)
    assert worker.log.count("ahead of the changelog") == PARTITIONS


async def test_a_partition_waits_where_a_transaction_hides_what_it_has_done(shop: Shop) -> None:
    worker = await shop.open()
    await shop.sell()
    await shop.settle(worker)
    async with transactional(shop.url, "forgotten-by-its-broker") as hanging:
        await hanging.begin_transaction()
        await hanging.send_and_wait("crm-changelog", b"no row", key=b"no key", partition=1)
        await shop.stop()
        worker.start()
        await asyncio.to_thread(
            worker.until, "the line", lambda: "kafka-transactions.sh find-hanging" in worker.log
        )
        assert worker.get("/readyz")[0] == 503
        await hanging.abort_transaction()
    await asyncio.to_thread(worker.ready)
    await shop.sell()
    await shop.settle(worker)
    assert "set aside" not in worker.log


async def test_a_state_that_has_missed_deletions_is_set_aside_so_that_nobody_comes_back(
    shop: Shop,
) -> None:
    """A customer is erased while a worker is away; its old disk must not bring them back."""
    away = await shop.open("away")
    await shop.sell()
    await shop.settle(away)
    await shop.stop()
    other = await shop.open("other")
    await send(shop.url, [("customers", CUSTOMERS[0], None)])
    await asyncio.to_thread(
        other.until, "erased", lambda: other.get(f"/v1/customers/{CUSTOMERS[0]}")[0] == 404
    )
    await asyncio.to_thread(other.stop)
    await configure(
        shop.url, "crm-changelog", {"cleanup.policy": "compact", "delete.retention.ms": "1"}
    )
    await shop.start(away)
    assert away.get(f"/v1/customers/{CUSTOMERS[0]}")[0] == 404
    assert "names erased customers for" in away.log


async def test_a_state_without_changelog_is_refused_where_there_is_one(shop: Shop) -> None:
    worker = await shop.open(changelog="false")
    await shop.sell()
    await shop.settle(worker)
    await shop.stop()
    assert "state on the local disk only" in worker.log
    later = WorkerProcess(shop.url, worker.data_dir)
    shop.workers.append(later)
    later.start()
    assert await asyncio.to_thread(later.process.wait, 60) == 1
    assert "never copied to the changelog" in later.log.strip().splitlines()[-1]


async def test_a_standby_takes_over_from_a_killed_worker_without_a_rebuild(shop: Shop) -> None:
    first = await shop.open("one", standby=1, session_timeout_seconds=2)
    second = await shop.open("two", standby=1, session_timeout_seconds=2)
    await asyncio.to_thread(
        first.until, "both have a share", lambda: share(first) + share(second) == PARTITIONS
    )
    assert share(first) == share(second) == PARTITIONS // 2
    await shop.sell()
    await shop.settle(first, second)
    await asyncio.sleep(1)  # the copies are half a second behind
    first.kill()
    await shop.sell()
    await asyncio.to_thread(second.until, "it has all", lambda: share(second) == PARTITIONS)
    await shop.settle(second)
    log = second.log[second.log.index("keeping a standby copy") :]
    taken_over = [line for line in log.splitlines() if "records of the changelog" in line]
    # What it had followed it did not read again: at most what came after its last look.
    assert all(int(line.split(": ")[1].split()[0]) < 100 for line in taken_over), taken_over
    await shop.stop()
    insights = await shop.insights()
    assert len(insights) == len(set(insights)) == chats_of(shop.truth)


def share(worker: WorkerProcess) -> int:
    status, answer = worker.get("/readyz")
    return len(answer["partitions"]) if status == 200 else 0


async def test_with_three_workers_the_topics_of_a_partition_stay_together_and_state_moves(
    shop: Shop,
) -> None:
    workers = [await shop.open(name) for name in ("one", "two", "three")]

    def partitions() -> list[int]:
        answers = [worker.get("/readyz") for worker in workers]
        ready = [answer["partitions"] for status, answer in answers if status == 200]
        return sorted(number for each in ready for number in each)

    await asyncio.to_thread(
        workers[0].until, "all shared", lambda: partitions() == list(range(PARTITIONS))
    )
    await shop.sell()
    await shop.settle(*workers)
    for worker in workers:
        lagging = {
            topic: {n for n in range(PARTITIONS) if has_lag_series(worker, topic, n)}
            for topic in EVENT_TOPICS
        }
        own = set(worker.get("/readyz")[1]["partitions"])
        assert all(own == numbers & own for numbers in lagging.values())
        assert "went to different workers" not in worker.log
    assert await asyncio.to_thread(workers[2].stop) == 0
    del workers[2]
    await asyncio.to_thread(
        workers[0].until, "handed over", lambda: partitions() == list(range(PARTITIONS))
    )
    await shop.sell()
    await shop.settle(*workers)
    await shop.stop()
    insights = await shop.insights()
    assert len(insights) == len(set(insights)) == chats_of(shop.truth)


def has_lag_series(worker: WorkerProcess, topic: str, number: int) -> bool:
    _, text = worker.get("/metrics")
    return f'crm_consumer_lag{{partition="{number}",topic="{topic}"}}' in text


async def configure(url: str, topic: str, values: dict[str, str]) -> None:
    """Set a topic's configuration on the broker."""
    client = AIOKafkaAdminClient(bootstrap_servers=url.removeprefix("kafka://"))
    await client.start()
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=values)
        answers = await client.alter_configs([resource])
        assert all(entry[0] == 0 for answer in answers for entry in answer.resources), answers
    finally:
        await client.close()
