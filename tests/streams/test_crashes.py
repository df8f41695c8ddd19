"""What happens when things die: nothing lost, nothing counted twice."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streams.admin import create_topics
from streams.broker import EmbeddedBroker
from streams.partitioner import partition_of
from streams.ports import free_port
from streams.settings import Settings
from tests.streams.traffic import CUSTOMERS, check, settled, traffic
from tests.streams.workers import (
    PARTITIONS,
    WorkerProcess,
    click,
    read,
    send,
)

RAISING = ("-m", "tests.streams.raising_worker")


@pytest.fixture
async def own_broker() -> AsyncIterator[EmbeddedBroker]:
    """A broker with topics that no other test knows."""
    async with EmbeddedBroker() as broker:
        await create_topics(Settings(broker=broker.url, partitions=PARTITIONS))
        yield broker


async def test_after_kill_9_at_any_moment_every_event_is_counted_exactly_once(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    worker = WorkerProcess(own_broker.url, tmp_path / "data", checkpoint_seconds=0.05)
    truth: Counter[tuple[str, str]] = Counter()
    draw = random.Random(5)
    for attempt in range(4):
        records, counted = traffic(attempt, 3_000)
        truth += counted
        worker.start()
        await asyncio.to_thread(worker.ready)
        sending = asyncio.ensure_future(send(own_broker.url, records))
        if attempt < 3:
            await asyncio.sleep(draw.uniform(0.05, 0.6))
            worker.kill()
        await sending
    total = int(sum(n for (_, field), n in truth.items() if field in ("clicks", "orders", "chats")))

    def seen() -> int:
        profiles = [worker.profile(customer) for customer in CUSTOMERS]
        return sum(each[field] for each in profiles for field in ("clicks", "orders", "chats"))

    await asyncio.to_thread(worker.until, "everything is applied", lambda: seen() == total)
    check([worker], truth)
    assert worker.stop() == 0
    lists = await read(own_broker.url, "recommendations")
    assert {each["customer_id"] for each in lists} == {customer for customer, _ in truth}
    insights = await read(own_broker.url, "chat-insights")
    sent_chats = sum(n for (_, field), n in truth.items() if field == "chats")
    assert len({each["event_id"] for each in insights}) == sent_chats


async def test_after_sigterm_at_any_moment_every_event_is_counted_exactly_once(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    worker = WorkerProcess(own_broker.url, tmp_path / "data", checkpoint_seconds=0.05)
    truth: Counter[tuple[str, str]] = Counter()
    draw = random.Random(6)
    for attempt in range(3):
        records, counted = traffic(attempt, 3_000)
        truth += counted
        worker.start()
        await asyncio.to_thread(worker.ready)
        sending = asyncio.ensure_future(send(own_broker.url, records))
        await asyncio.sleep(draw.uniform(0.1, 0.5))
        assert await asyncio.to_thread(worker.stop) == 0
        await sending
    worker.start()
    await asyncio.to_thread(worker.ready)
    await asyncio.to_thread(
        worker.until, "everything is applied", lambda: worker.metric("crm_consumer_lag") == 0
    )
    await asyncio.sleep(0.5)
    check([worker], truth)
    assert worker.stop() == 0
    insights = await read(own_broker.url, "chat-insights")
    sent_chats = sum(n for (_, field), n in truth.items() if field == "chats")
    assert len({each["event_id"] for each in insights}) == sent_chats


async def test_a_record_that_makes_an_outcome_raise_becomes_a_dead_letter_and_nothing_else_is_lost(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    records, truth = traffic(9, 1_500)
    bad = click("customer-0", 5, "poison", event_id="the-bad-one")
    worse = click("customer-7", 6, "poison", event_id="another")
    records[400:400] = [bad]
    records[900:900] = [worse]
    await send(own_broker.url, records)
    worker = WorkerProcess(own_broker.url, tmp_path / "data", command=RAISING).start()
    await asyncio.to_thread(worker.ready)
    await asyncio.to_thread(worker.applied, 1_500)
    check([worker], truth)
    assert worker.stop() == 0
    letters = await read(own_broker.url, "dead-letters")
    assert {(each["stage"], each["partition"]) for each in letters} == {
        ("process", partition_of("customer-0", PARTITIONS)),
        ("process", partition_of("customer-7", PARTITIONS)),
    }
    assert all("ZeroDivisionError" in each["traceback"] for each in letters)


async def test_workers_that_join_and_leave_share_the_partitions_and_count_everything_once(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    first = WorkerProcess(own_broker.url, tmp_path / "one").start()
    second = WorkerProcess(own_broker.url, tmp_path / "two")
    await asyncio.to_thread(first.ready)
    truth: Counter[tuple[str, str]] = Counter()

    async def give(seed: int) -> None:
        records, counted = traffic(seed, 1_000)
        truth.update(counted)
        await send(own_broker.url, records)

    def share(worker: WorkerProcess) -> int:
        status, answer = worker.get("/readyz")
        return len(answer["partitions"]) if status == 200 else 0

    await give(1)
    second.start()
    await give(2)
    await asyncio.to_thread(
        second.until, "both have a share", lambda: 0 < share(second) < PARTITIONS
    )
    await asyncio.to_thread(
        first.until, "the rest", lambda: share(first) + share(second) == PARTITIONS
    )
    await give(3)

    await asyncio.sleep(1)
    await asyncio.to_thread(first.until, "settled", lambda: settled(first, second))
    check([first, second], truth)
    assert second.stop() == 0
    await give(4)
    await asyncio.to_thread(first.until, "alone again", lambda: share(first) == PARTITIONS)
    await asyncio.sleep(1)
    await asyncio.to_thread(first.until, "settled", lambda: settled(first))
    check([first], truth)
    assert first.stop() == 0


def pid_of(broker: EmbeddedBroker) -> int:
    """Find the broker's process by the address in its command line."""
    found = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().startswith(b"/") and f":{broker.port}\0".encode() in path.read_bytes()
    ]
    return max(found)


async def test_a_broker_that_hangs_and_comes_back_is_only_a_pause(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    worker = WorkerProcess(own_broker.url, tmp_path / "data").start()
    await asyncio.to_thread(worker.ready)
    records, truth = traffic(1, 800)
    await send(own_broker.url, records)
    os.kill(pid_of(own_broker), signal.SIGSTOP)
    await asyncio.sleep(4)
    os.kill(pid_of(own_broker), signal.SIGCONT)
    more, counted = traffic(2, 800)
    truth += counted
    await send(own_broker.url, more)
    await asyncio.to_thread(worker.applied, 1_600)
    check([worker], truth)
    assert worker.stop() == 0


async def test_a_crash_that_nobody_foresaw_ends_the_worker_with_a_status_that_says_so(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    command = ("-m", "tests.streams.crashing_worker")
    worker = WorkerProcess(own_broker.url, tmp_path / "data", command=command).start()
    await asyncio.to_thread(worker.ready)
    await send(own_broker.url, [click("ada", 1)])
    assert await asyncio.to_thread(worker.process.wait, 60) == 1
    assert "WorkerCrashError" in worker.log
    assert "the fetcher broke" in worker.log


async def ended(worker: WorkerProcess) -> tuple[int, str]:
    """Start a worker that must not come up; return its status and the last line it said."""
    worker.start()
    status = await asyncio.to_thread(worker.process.wait, 60)
    return status, worker.log.strip().splitlines()[-1]


async def test_a_taken_port_is_one_clear_line(own_broker: EmbeddedBroker, tmp_path: Path) -> None:
    status, line = await ended(
        WorkerProcess(own_broker.url, tmp_path / "data", web_port=own_broker.port)
    )
    assert status == 1
    assert f"127.0.0.1:{own_broker.port}" in line
    assert "--web-port" in line


async def test_a_data_directory_in_use_is_one_clear_line(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    worker = WorkerProcess(own_broker.url, tmp_path / "data").start()
    await asyncio.to_thread(worker.ready)
    status, line = await ended(WorkerProcess(own_broker.url, tmp_path / "data"))
    assert status == 1
    assert "in use by another worker" in line
    assert worker.stop() == 0


async def test_a_data_directory_that_cannot_be_written_is_one_clear_line(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    status, line = await ended(WorkerProcess(own_broker.url, tmp_path / "data"))
    assert status == 1
    assert "not writable" in line


async def test_state_of_another_cluster_is_refused_with_a_way_out(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    worker = WorkerProcess(own_broker.url, tmp_path / "data").start()
    await asyncio.to_thread(worker.ready)
    await send(own_broker.url, [click("ada", 1)])
    await asyncio.to_thread(worker.applied, 1)
    assert worker.stop() == 0
    async with EmbeddedBroker() as other:
        await create_topics(Settings(broker=other.url, partitions=PARTITIONS))
        status, line = await ended(WorkerProcess(other.url, tmp_path / "data"))
    assert status == 1
    assert "cluster" in line


async def test_a_worker_without_a_broker_says_so_retries_and_gives_up(tmp_path: Path) -> None:
    started = time.monotonic()
    worker = WorkerProcess(f"kafka://127.0.0.1:{free_port()}", tmp_path / "data")
    status, line = await ended(worker)
    assert status == 1
    assert "no broker answers" in line
    assert time.monotonic() - started > 2
    assert len(worker.log.strip().splitlines()) > 1


async def test_a_worker_without_topics_says_how_to_make_them(tmp_path: Path) -> None:
    async with EmbeddedBroker() as bare:
        status, line = await ended(WorkerProcess(bare.url, tmp_path / "data"))
    assert status == 1
    assert "topics create" in line
