"""Workers learn one model: what one has seen, another recommends."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from streams.partitioner import partition_of
from tests.streams.fresh_kafka import Kafka
from tests.streams.workers import PARTITIONS, WorkerProcess, click, read, send

pytestmark = pytest.mark.kafka

SYNC: Any = {"models_sync_seconds": 0.5, "models_save_seconds": 0.5, "models_snapshot_seconds": 1}


def customers_of(worker: WorkerProcess, count: int, name: str) -> list[str]:
    """Name customers who live in the worker's partitions."""
    own = set(worker.get("/readyz")[1]["partitions"])
    names = (f"{name}-{number}" for number in range(1_000))
    return [each for each in names if partition_of(each, PARTITIONS) in own][:count]


def share(worker: WorkerProcess) -> int:
    status, answer = worker.get("/readyz")
    return len(answer["partitions"]) if status == 200 else 0


async def last_list(url: str, customer: str) -> list[str]:
    """Return the items of a customer's last list, the best first."""
    lists = [e for e in await read(url, "recommendations") if e["customer_id"] == customer]
    return [item["item_id"] for item in lists[-1]["items"]]


async def test_what_one_worker_has_seen_the_other_recommends_and_so_does_a_new_one(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    one = WorkerProcess(own_kafka.url, tmp_path / "one", **SYNC).start()
    two = WorkerProcess(own_kafka.url, tmp_path / "two", **SYNC).start()
    await asyncio.to_thread(one.ready)
    await asyncio.to_thread(two.ready)
    await asyncio.to_thread(
        one.until, "both have a share", lambda: share(one) + share(two) == PARTITIONS
    )
    taught = customers_of(one, 30, "taught")
    await send(own_kafka.url, [click(name, n, "tea") for n, name in enumerate(taught)])
    await send(own_kafka.url, [click(name, 100 + n, "pot") for n, name in enumerate(taught)])
    await asyncio.to_thread(one.applied, 60)
    await asyncio.to_thread(
        two.until, "it has heard", lambda: two.metric("crm_model_syncs_total", direction="in") > 0
    )
    await asyncio.sleep(1)
    stranger = customers_of(two, 1, "stranger")[0]
    await send(own_kafka.url, [click(stranger, 500, "tea")])
    await asyncio.to_thread(two.applied, 1)
    assert two.stop() == 0
    # Nobody in the second worker's partitions ever touched a pot.
    assert (await last_list(own_kafka.url, stranger))[0] == "pot"
    assert one.stop() == 0

    shutil.rmtree(two.data_dir)
    two.start()
    await asyncio.to_thread(two.ready)
    assert "the models are those of a snapshot" in two.log
    newcomer = customers_of(two, 1, "newcomer")[0]
    await send(own_kafka.url, [click(newcomer, 600, "tea")])
    await asyncio.to_thread(two.applied, 1)
    assert two.stop() == 0
    assert (await last_list(own_kafka.url, newcomer))[0] == "pot"
