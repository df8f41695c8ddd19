"""The exchange with the real models: what one worker's customers taught, the other's are served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from state.arrays import ArrayStore
from streams.model_sync import ModelSync, Pace
from streams.model_topic import ModelTopic
from streams.models import Models
from streams.settings import Settings
from tests.streams.shop_in_memory import ShopInMemory
from tests.streams.topics_for_tests import make_topic
from tests.streams.toy_models import ToyMetrics
from tests.streams.workers import START_TS_MS, chat, click, order


@asynccontextmanager
async def synced(
    settings: Settings, topic: str, models: Models, path: Path
) -> AsyncIterator[tuple[ModelSync, ToyMetrics]]:
    """Start an exchange of `models`; read until the block ends."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers(), acks="all")
    await producer.start()
    metrics = ToyMetrics()
    sync = ModelSync(
        models,
        ArrayStore(path),
        ModelTopic(settings, topic, producer),
        cluster_id="one",
        incarnation=uuid4().hex,
        leads=lambda: True,
        metrics=metrics,
        pace=Pace(),
    )
    await sync.start()
    reading = asyncio.ensure_future(sync.read_forever())
    try:
        yield sync, metrics
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        await sync.stop()
        await producer.stop()


async def until_one_came(metrics: ToyMetrics) -> None:
    async with asyncio.timeout(30):
        while not metrics.of("syncs_total", direction="in"):  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.01)


def bytes_of(models: Models) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in models.copy_arrays().items()}


@pytest.fixture
async def topic(settings: Settings) -> str:
    name = f"models-{uuid4()}"
    await make_topic(settings, name, 2)
    return name


def shop_that_sells(directory: Path, item: str, with_it: str) -> ShopInMemory:
    """A worker's models after customers of its own have bought two items together."""
    shop = ShopInMemory(directory)
    for number in range(40):
        who = f"{item}-{number}"
        shop.feed(
            [
                click(who, 1, item=item),
                click(who, 2, item=with_it),
                order(who, 3, (item, 1, 2.0), (with_it, 1, 1.0)),
                chat(who, 4, f"thank you, I love the {item}"),
            ],
            START_TS_MS,
        )
    return shop


def goes_with(models: Models, item: str) -> list[str]:
    return [other for other, _ in models.hybrid.similar(item, 1)]


async def test_what_two_workers_learned_apart_both_know_and_a_third_that_joins(
    settings: Settings, topic: str, tmp_path: Path
) -> None:
    shops = [
        shop_that_sells(tmp_path / "a", "mug", "spoon"),
        shop_that_sells(tmp_path / "b", "lamp", "bulb"),
    ]
    left, right = (shop.models for shop in shops)
    learned = sum(models.updates()["recommendations"] for models in (left, right))
    assert goes_with(left, "lamp") == []
    async with (
        synced(settings, topic, left, tmp_path / "left") as (left_sync, left_metrics),
        synced(settings, topic, right, tmp_path / "right") as (right_sync, right_metrics),
    ):
        await left_sync.exchange(save=False, snapshot=False)
        await right_sync.exchange(save=False, snapshot=False)
        await until_one_came(left_metrics)
        await until_one_came(right_metrics)
        await left_sync.exchange(save=True, snapshot=True)
        known = bytes_of(left)
    for models in (left, right):
        assert models.updates()["recommendations"] == learned
        assert goes_with(models, "mug") == ["spoon"]
        assert goes_with(models, "lamp") == ["bulb"]
    for name in ("left", "new"):  # from the file, and from the snapshot
        models = Models(shops[0].settings)
        async with synced(settings, topic, models, tmp_path / name) as (_, metrics):
            assert bytes_of(models) == known
            assert metrics.of("refused_total") == 0
    for shop in shops:
        shop.store.close()
