"""Apache Kafka as tests and benchmarks start it, and what the engine's tools see on it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from benchmarks.kafka import KafkaBroker, unavailable
from streams import topics
from streams.admin import TopicFacts, cluster_id, create_topics, list_topics
from streams.errors import BrokerStartError
from streams.reading import follow, read_to_end
from streams.replay import Line, replay
from streams.settings import Settings
from tests.streams.fresh_kafka import Kafka, renew
from tests.streams.topics_for_tests import make_topic
from tests.streams.transactional import transaction, transactional
from tests.streams.workers import PARTITIONS

pytestmark = pytest.mark.kafka

LINES = [Line(f"c{number % 7}", b'{"n":%d}' % number, 0) for number in range(500)]


def on(broker: Kafka) -> Settings:
    return Settings(broker=broker.url, partitions=PARTITIONS)


async def values_of(settings: Settings, topic: str) -> list[bytes]:
    return [record.value async for record in read_to_end(settings, topic)]


def python(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# Its process


@pytest.fixture
def java() -> None:
    """Skip where no Kafka can be started here, be there one elsewhere or not."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)


async def test_a_setting_that_kafka_refuses_is_told_in_its_own_words(java: None) -> None:
    broker = KafkaBroker(properties={"num.partitions": "many"})
    with pytest.raises(BrokerStartError, match="Invalid value many for configuration") as raised:
        await broker.start()
    assert "\n" not in str(raised.value)
    assert not broker.running


async def test_a_broker_that_does_not_come_up_tells_the_end_of_its_log(java: None) -> None:
    broker = KafkaBroker(properties={"advertised.listeners": "PLAINTEXT://0.0.0.0:1"})
    with pytest.raises(BrokerStartError, match=r"advertised\.listeners cannot use"):
        await broker.start()
    assert not broker.running


async def test_a_taken_port_is_one_clear_line(java: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerStartError, match=f"port {port} cannot be had"):
            await KafkaBroker(port).start()


CHILD = """
import asyncio, time
from benchmarks.kafka import KafkaBroker

async def main():
    broker = KafkaBroker()
    await broker.start()
    print(broker.pid, broker._home, flush=True)
    time.sleep(60)

asyncio.run(main())
"""


def test_neither_it_nor_its_data_outlive_a_parent_that_is_killed(java: None) -> None:
    child = python("-c", CHILD)
    assert child.stdout is not None
    pid, home = child.stdout.readline().split()
    assert Path(home).is_dir()
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (runs(int(pid)) or Path(home).exists()):
        time.sleep(0.05)
    assert not runs(int(pid))
    assert not Path(home).exists()


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_in_the_foreground_it_prints_its_address_and_ends_when_asked(java: None) -> None:
    child = python("-m", "benchmarks.kafka", "--port", "0")
    assert child.stdout is not None
    url = await asyncio.to_thread(child.stdout.readline)
    assert await cluster_id(Settings(broker=url.strip()))
    child.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(child.communicate, timeout=60) == ("", "")
    assert child.returncode == 0


# What is on it


async def test_the_engines_topics_are_created_and_listed(own_kafka: Kafka) -> None:
    assert await create_topics(on(own_kafka)) == []
    listed = await list_topics(on(own_kafka))
    assert {facts.name for facts in listed} >= {topic.name for topic in topics.ALL}
    assert TopicFacts("clicks", PARTITIONS) in listed
    assert TopicFacts("catalog", 1) in listed


async def test_compacted_topics_are_compacted_by_the_broker_and_no_others(
    own_kafka: Kafka,
) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=on(own_kafka).bootstrap_servers())
    await client.start()
    try:
        answers = await client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics.ALL]
        )
    finally:
        await client.close()
    configs = {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for answer in answers
        for resource in answer.resources
    }
    for topic in topics.ALL:
        policy = "compact" if topic.compacted else "delete"
        assert configs[topic.name]["cleanup.policy"] == policy, topic.name
        for name, value in topic.config().items():
            assert configs[topic.name][name] == value, topic.name


async def test_what_is_replayed_is_read_to_its_end_and_followed(own_kafka: Kafka) -> None:
    settings = on(own_kafka)
    await replay(settings, "clicks", PARTITIONS, iter([LINES[:300], LINES[300:]]))
    wanted = sorted(line.value for line in LINES)
    assert sorted(await values_of(settings, "clicks")) == wanted
    followed = []
    async with aclosing(follow(settings, "clicks", from_beginning=True)) as records:
        async for record in records:
            followed.append(record.value)
            if len(followed) == len(LINES):
                break
    assert sorted(followed) == wanted


async def test_a_reader_sees_what_was_committed_and_nothing_that_was_aborted(
    own_kafka: Kafka,
) -> None:
    settings = on(own_kafka)
    async with transactional(own_kafka.url, "reader-sees") as producer:
        for number in range(6):
            records = [("alerts", f"c{key}", b"%d" % number) for key in range(20)]
            await transaction(producer, records, commit=number % 2 == 0)
    values = await values_of(settings, "alerts")
    assert sorted(values) == sorted([b"0", b"2", b"4"] * 20)


@pytest.mark.parametrize("commit", [True, False])
async def test_a_partition_that_ends_in_markers_is_read_to_its_end(
    own_kafka: Kafka, commit: bool
) -> None:
    """There is no record at the last offsets, so what is waited for never comes as one."""
    settings = on(own_kafka)
    async with transactional(own_kafka.url, "ends-in-markers") as producer:
        await transaction(producer, [("alerts", None, b"first")], commit=True, partition=0)
        for _ in range(3):
            await transaction(producer, [("alerts", None, b"last")], commit=commit, partition=0)
    assert await values_of(settings, "alerts") == [b"first"] + [b"last"] * 3 * commit


async def test_a_partition_with_nothing_but_aborted_records_is_read_to_its_end(
    own_kafka: Kafka,
) -> None:
    async with transactional(own_kafka.url, "all-aborted") as producer:
        records = [("alerts", f"c{number}", b"x") for number in range(50)]
        await transaction(producer, records, commit=False)
    assert await values_of(on(own_kafka), "alerts") == []


# What survives


async def test_a_restart_keeps_records_address_and_cluster(restartable_kafka: KafkaBroker) -> None:
    settings, broker = on(restartable_kafka), restartable_kafka
    await replay(settings, "clicks", PARTITIONS, iter([LINES]))
    port, cluster = broker.port, broker.cluster_id
    await broker.stop()
    assert not broker.running
    await broker.start()
    assert (broker.port, await cluster_id(settings)) == (port, cluster)
    assert sorted(await values_of(settings, "clicks")) == sorted(line.value for line in LINES)


async def test_after_a_crash_every_acknowledged_record_is_there(
    restartable_kafka: KafkaBroker,
) -> None:
    settings = on(restartable_kafka)
    async with transactional(restartable_kafka.url, "crash") as producer:
        records = [("alerts", f"c{number}", b"committed") for number in range(100)]
        await transaction(producer, records, commit=True)
        # Kafka acknowledges a commit before it has written its marks; one that dies in between,
        # with the only replica, forgets them (see `streams.recovery.require_settled`).
        assert len(await values_of(settings, "alerts")) == 100
        await replay(settings, "clicks", PARTITIONS, iter([LINES]))
        await restartable_kafka.kill()
    assert not restartable_kafka.running
    await restartable_kafka.start()
    assert sorted(await values_of(settings, "clicks")) == sorted(line.value for line in LINES)
    assert await values_of(settings, "alerts") == [b"committed"] * 100


async def test_after_the_end_of_the_context_its_data_are_gone(java: None) -> None:
    async with KafkaBroker() as broker:
        home = broker._home
        await make_topic(Settings(broker=broker.url), "mine", 1)
        os.kill(broker.pid, signal.SIGKILL)
        await broker.wait()
        # Who restarts one that died must not lose its data to whoever watched over the dead one.
        await broker.start()
        assert await list_topics(Settings(broker=broker.url)) == [TopicFacts("mine", 1)]
    assert not broker.running
    assert not home.exists()


# The broker that tests share


async def test_a_test_finds_its_topics_empty(own_kafka: Kafka) -> None:
    settings = on(own_kafka)
    await replay(settings, "clicks", PARTITIONS, iter([LINES]))
    await renew(own_kafka.url)
    assert await values_of(settings, "clicks") == []
    await replay(settings, "clicks", PARTITIONS, iter([LINES[:10]]))
    assert len(await values_of(settings, "clicks")) == 10


MEMBER = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer

async def main():
    consumer = AIOKafkaConsumer(
        "clicks",
        bootstrap_servers=sys.argv[1],
        group_id="crm-streams",
        session_timeout_ms=600_000,
        max_poll_interval_ms=600_000,
    )
    await consumer.start()
    print(len(consumer.assignment()), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_who_died_in_the_group_does_not_keep_the_next_test_waiting(own_kafka: Kafka) -> None:
    (address,) = on(own_kafka).bootstrap_servers()
    child = python("-c", MEMBER, address)
    assert child.stdout is not None
    assert int(await asyncio.to_thread(child.stdout.readline)) == PARTITIONS
    child.kill()
    child.communicate()
    await renew(own_kafka.url)
    consumer = AIOKafkaConsumer("clicks", bootstrap_servers=address, group_id="crm-streams")
    async with asyncio.timeout(60):
        await consumer.start()
    try:
        assert len(consumer.assignment()) == PARTITIONS
    finally:
        await consumer.stop()
