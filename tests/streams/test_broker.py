import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streams import admin, broker
from streams.broker import EmbeddedBroker
from streams.errors import BrokerStartError
from streams.settings import Settings


async def test_it_answers_as_soon_as_it_is_started() -> None:
    async with EmbeddedBroker() as running:
        assert running.running
        assert await admin.cluster_id(Settings(broker=running.url)) == running.cluster_id


async def test_every_start_is_another_cluster() -> None:
    running = EmbeddedBroker()
    await running.start()
    first = running.cluster_id
    await running.stop()
    assert not running.running
    async with running:
        assert running.cluster_id != first


async def test_stopping_twice_is_harmless() -> None:
    running = EmbeddedBroker()
    await running.stop()
    await running.start()
    await running.stop()
    await running.stop()


async def test_after_the_stop_the_port_is_free() -> None:
    async with EmbeddedBroker() as running:
        port = running.port
    async with EmbeddedBroker(port) as again:
        assert again.port == port


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerStartError, match=f"port {port} cannot be had") as raised:
            await EmbeddedBroker(port).start()
    assert "\n" not in str(raised.value)


async def test_a_broker_that_does_not_come_up_tells_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\nyes noise | head -c 200000\necho out of luck\n")
    program.chmod(0o755)
    monkeypatch.setattr(broker, "_executable", lambda: str(program))
    running = EmbeddedBroker()
    with pytest.raises(BrokerStartError, match=r"ended while starting: .*out of luck"):
        await running.start()
    assert not running.running


def test_what_it_prints_is_kept_within_bounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "chatty"
    program.write_text("#!/bin/sh\nexec yes\n")
    program.chmod(0o755)
    process = broker._Process(str(program), 1, "none")
    deadline = time.monotonic() + 10
    while len(process.output()) < broker.OUTPUT_BYTES and time.monotonic() < deadline:
        time.sleep(0.01)
    process.stop()
    assert len(process.output()) == broker.OUTPUT_BYTES


async def test_who_waits_is_told_that_it_ended() -> None:
    running = EmbeddedBroker()
    await running.start()
    waiting = asyncio.create_task(running.wait())
    await running.stop()
    await asyncio.wait_for(waiting, 10)


CHILD = """
import asyncio, time
from streams.broker import EmbeddedBroker

async def main():
    running = EmbeddedBroker()
    await running.start()
    print(running.port, flush=True)
    time.sleep(60)

asyncio.run(main())
"""


def listens(port: int) -> bool:
    return asyncio.run(broker._listens(port))


def test_it_does_not_outlive_a_parent_that_is_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout as output:
        port = int(output.readline())
        assert listens(port)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
    deadline = time.monotonic() + 10
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listens(port)


async def test_keys_headers_tombstones_and_large_values_come_back(settings: Settings) -> None:
    """Pins what `streams.broker` says of the broker, so that a new version is noticed."""
    topic, partition = "broker-round-trip", TopicPartition("broker-round-trip", 0)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers(), max_request_size=8 << 20
    )
    await producer.start()
    large = b"x" * 5_000_000
    sent = [(b"k", b"v"), (b"k", None), (b"k", b""), (None, large)]
    for key, value in sent:
        await producer.send_and_wait(
            topic, value, key=key, partition=0, timestamp_ms=12_345, headers=[("h", b"1")]
        )
    await producer.stop()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers(),
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    consumer.assign([partition])
    records = [await asyncio.wait_for(consumer.getone(), 10) for _ in sent]
    await consumer.stop()
    assert [(record.key, record.value) for record in records] == sent
    assert {record.timestamp for record in records} == {12_345}
    assert {record.headers for record in records} == {(("h", b"1"),)}


async def test_the_end_offset_falls_short_of_the_last_batch(settings: Settings) -> None:
    """The reason for `streams.reading`: a broker that mends this needs it no more."""
    topic, partition = "broker-end-offset", TopicPartition("broker-end-offset", 0)
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers())
    await producer.start()
    batch = producer.create_batch()
    for _ in range(10):
        batch.append(key=None, value=b"v", timestamp=None)
    await (await producer.send_batch(batch, topic, partition=0))
    await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap_servers())
    await consumer.start()
    ends = await consumer.end_offsets([partition])
    consumer.assign([partition])
    await consumer.seek_to_beginning()
    await asyncio.wait_for(consumer.getone(), 10)
    mark = consumer.highwater(partition)
    await consumer.stop()
    assert ends == {partition: 1}
    assert mark == 10
