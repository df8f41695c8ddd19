"""More customers than fit into memory: rows leave it, and come back as they were."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.admin import create_topics
from streams.broker import EmbeddedBroker
from streams.settings import Settings
from tests.streams.shop_in_memory import ShopInMemory
from tests.streams.workers import PARTITIONS, WorkerProcess, click, order, read, running, send

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
NOW_MS = START_MS + 10 * DAY_MS
CUSTOMERS = 3_000
CAP = 1_000


@pytest.fixture
async def broker_url() -> AsyncIterator[str]:
    async with EmbeddedBroker() as broker:
        await create_topics(Settings(broker=broker.url, partitions=PARTITIONS))
        yield broker.url


async def test_a_worker_counts_more_customers_than_it_may_hold_and_recommends_to_all_of_them(
    broker_url: str, tmp_path: Path
) -> None:
    few: Any = {"max_customers": CAP, "chunk_records": 100}
    with running(WorkerProcess(broker_url, tmp_path / "data", **few)) as worker:
        for turn in range(3):
            events = [click(f"c-{n}", turn * 10 + n % 10, f"i{n % 40}") for n in range(CUSTOMERS)]
            await send(broker_url, events)
            await asyncio.to_thread(worker.applied, (turn + 1) * CUSTOMERS)
        assert {worker.profile(f"c-{n}")["clicks"] for n in range(0, CUSTOMERS, 97)} == {3}
        assert worker.metric("crm_state_rows", table="customers") <= CAP
        assert worker.metric("crm_state_cache_hit_ratio") < 1
    lists = await read(broker_url, "recommendations")
    assert {each["customer_id"] for each in lists} == {f"c-{n}" for n in range(CUSTOMERS)}
    with running(WorkerProcess(broker_url, tmp_path / "data", **few)) as again:
        assert {again.profile(f"c-{n}")["clicks"] for n in range(0, CUSTOMERS, 301)} == {3}


class SmallShop(ShopInMemory):
    """A shop that holds few rows and checkpoints whenever it is told to."""

    def __init__(self, directory: Path, cap: int) -> None:
        super().__init__(directory, max_customers=2_000, max_rows=cap)

    def checkpoint(self) -> None:
        snapshot = self.partition.take_snapshot(with_outputs=True)
        self.store.write(snapshot.rows, snapshot.progress)
        self.partition.rows.settle()
        for (topic, _), outputs in snapshot.outputs.items():
            self.keep(topic, outputs)


def day(number: int, customers: range) -> list[Any]:
    start = START_MS + number * DAY_MS
    return [
        event
        for n in customers
        for event in (
            click(f"c-{n}", 0, f"i{n % 30}", ts=start + n, event_id=f"c{number}-{n}"),
            order(f"c-{n}", 0, (f"i{n % 30}", 1, 2.0)),
        )
        if event[0] == "clicks" or number == 0
    ]


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, cap=200)


def test_customers_on_disk_are_swept_as_those_in_memory_are(shop: SmallShop) -> None:
    """600 customers, 200 rows: who was seen first is on disk when the day ends."""
    for first in range(0, 600, 100):
        shop.feed(day(0, range(first, first + 100)), NOW_MS)
        shop.pay(NOW_MS)
        shop.checkpoint()
    shop.feed(day(2, range(550, 560)), NOW_MS)
    boundary = shop.partition.progress.sweep_ms
    assert boundary > START_MS
    for _ in range(100):
        shop.pay(NOW_MS)
        shop.checkpoint()
        if not shop.partition.walk_cold():
            break
    shop.checkpoint()
    swept: dict[str, int] = {}
    after: bytes | None = None
    while True:
        keys, rows = shop.store.read_page(after, 50)
        if not keys:
            break
        after = keys[-1]
        stored = np.frombuffer(b"".join(rows), shop.models.row_dtype)
        swept |= {key.decode(): int(at) for key, at in zip(keys, stored["swept_ms"], strict=True)}
    assert len(swept) == 600
    assert set(swept.values()) == {boundary}


def test_a_customer_who_comes_back_from_disk_is_swept_before_the_event_is_applied(
    shop: SmallShop,
) -> None:
    for first in range(0, 600, 100):
        shop.feed(day(0, range(first, first + 100)), NOW_MS)
        shop.pay(NOW_MS)
        shop.checkpoint()
    shop.feed(day(2, range(550, 560)), NOW_MS)
    assert shop.partition.rows.slots_of(["c-3"])[0] < 0
    shop.feed(day(3, range(3, 4)), NOW_MS)
    slot = shop.partition.rows.slots_of(["c-3"])[0]
    row = shop.partition.rows.data[slot]
    assert row["swept_ms"] == shop.partition.progress.sweep_ms
    assert row["profile"]["clicks"] == 2
    # Looked at on the boundary, when two days had gone by without this customer.
    assert row["churn"]["scored_ts_ms"] > 0
