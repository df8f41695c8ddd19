"""The exchange of models on Apache Kafka, which forgets old records, restarts, and keeps topics."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from benchmarks.kafka import KafkaBroker
from streams import model_topic
from streams.errors import PublishError
from streams.model_topic import DELTAS, SNAPSHOTS
from streams.settings import Settings
from streams.topics import MODELS
from tests.streams.fresh_kafka import Kafka, have_leaders, until
from tests.streams.toy_models import ToyShop, open_shop

pytestmark = pytest.mark.kafka

LARGE = 400_000


async def make_models_topic(settings: Settings) -> str:
    """Make a topic as the engine's own is made, under another name."""
    topic = NewTopic(f"models-{uuid4()}", MODELS.partitions(settings), 1)
    topic.topic_configs = MODELS.config()
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers())
    await client.start()
    try:
        await client.create_topics([topic])
        await until(lambda: have_leaders(client, {topic.name: topic.num_partitions}))
    finally:
        await client.close()
    return str(topic.name)


async def forget_before(shop: ToyShop, partition: int, offset: int) -> None:
    """Have the broker delete a partition's records below an offset, as retention does."""
    client = AIOKafkaAdminClient(bootstrap_servers=shop.settings.bootstrap_servers())
    await client.start()
    try:
        tp = TopicPartition(shop.topic, partition)
        await client.delete_records({tp: RecordsToDelete(offset)})
    finally:
        await client.close()


@pytest.fixture
async def shop(kafka: Kafka, tmp_path: Path) -> AsyncIterator[ToyShop]:
    settings = Settings(broker=kafka.url)
    topic = await make_models_topic(settings)
    async with open_shop(settings, topic, tmp_path, enable_idempotence=True) as opened:
        yield opened


async def test_workers_exchange_large_and_small_deltas_and_others_join(shop: ToyShop) -> None:
    a, b = [await shop.worker(name, keys=LARGE) for name in "ab"]
    for key in range(LARGE):
        a.models.learn(key, times=key**2 % 997)
    await a.exchange(save=True, snapshot=True)
    b.models.learn(0, times=11)
    await b.exchange()
    for worker in (a, b, await shop.worker("c", keys=LARGE)):
        await worker.until_learned(0, 11)
        assert worker.models.bytes() == a.models.bytes()
    await shop.crash(a)
    again = await shop.worker("a", keys=LARGE)
    assert again.models.bytes() == b.models.bytes()


async def test_a_worker_that_was_away_for_longer_than_deltas_are_kept_takes_the_snapshot(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await shop.worker("a"), await shop.worker("b")
    a.models.learn(0)
    await a.exchange()
    await b.until_counts(1, 0, 0, 0)
    await b.exchange(save=True)
    await shop.crash(b)
    for _ in range(5):
        a.models.learn(1)
        await a.exchange()
    await a.until(lambda: a.topic.position == 6)
    a.models.learn(2)
    await a.exchange(snapshot=True)
    await forget_before(shop, DELTAS, 6)
    assert await a.topic.bounds(DELTAS) == (6, 7)
    b = await shop.worker("b")
    assert b.models.bytes() == a.models.bytes()
    assert "is missing here" not in caplog.text
    assert b.metrics.of("gaps_total") == 0


async def test_what_no_snapshot_and_no_delta_tells_any_more_is_told_to_be_missing(
    shop: ToyShop, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await shop.worker("a"), await shop.worker("b")
    a.models.learn(0)
    await a.exchange()
    await b.until_counts(1, 0, 0, 0)
    await b.exchange(save=True)
    await shop.crash(b)
    for _ in range(3):
        a.models.learn(1)
        await a.exchange()
    await forget_before(shop, DELTAS, 3)
    b = await shop.worker("b")
    assert b.models.counts == [1, 1, 0, 0]
    assert "the deltas from offset 1 to 3 are not in the models' topic any more" in caplog.text
    assert b.metrics.of("gaps_total") == 2
    await a.until_counts(1, 3, 0, 0)


async def test_snapshots_whose_first_parts_are_deleted_already_are_passed_over(
    shop: ToyShop,
) -> None:
    a = await shop.worker("a", keys=LARGE)
    a.models.learn(0, times=3)
    await a.exchange(snapshot=True)
    _, end = await a.topic.bounds(SNAPSHOTS)
    assert end > 3
    await forget_before(shop, SNAPSHOTS, 2)
    b = await shop.worker("b", keys=LARGE)
    assert b.models.counts[0] == 3, "from the deltas"
    assert b.taken_in == 1


async def test_a_broker_that_goes_away_and_comes_back_costs_nothing(
    restartable_kafka: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(broker=restartable_kafka.url)
    topic = await make_models_topic(settings)
    async with open_shop(settings, topic, tmp_path) as shop:
        a, b = await shop.worker("a"), await shop.worker("b")
        a.models.learn(0, times=2)
        await a.exchange(save=True)
        await b.until_counts(2, 0, 0, 0)
        await restartable_kafka.stop()
        monkeypatch.setattr(model_topic, "WRITE_SECONDS", 0.5)
        for worker in (a, b):
            worker.models.learn(1)
            with pytest.raises(PublishError, match="not written"):
                await worker.exchange(save=True)
            worker.models.learn(2)
        await b.until(lambda: b.metrics.of("staleness") > 1)
        monkeypatch.undo()
        await restartable_kafka.start()
        for worker in (a, b):
            await worker.exchange(save=True)
        for worker in (a, b):
            await worker.until_counts(2, 2, 2, 0)
            assert worker.metrics.of("gaps_total") == 0
        await b.until(lambda: b.metrics.of("staleness") < 1)
        assert a.models.bytes() == b.models.bytes()
