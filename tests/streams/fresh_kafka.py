"""Apache Kafka as good as new, without starting another: for tests that share one broker."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    NoError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.group import LeaveGroupRequest

from benchmarks.kafka import KafkaBroker
from streams import topics
from streams.admin import create_topics
from streams.settings import Settings
from tests.streams.workers import PARTITIONS

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class GivenKafka:
    """A broker that runs already, named by CRM_TEST_KAFKA; it is not ours to start and stop."""

    url: str


Kafka = KafkaBroker | GivenKafka


async def renew(url: str) -> None:
    """Empty every topic of the engine, by deleting and creating it, and free its group.

    Without the latter, a worker that joins waits until the group has given up the ones that were
    killed. Offsets of the group go with the topics.
    """
    settings = Settings(broker=url, partitions=PARTITIONS)
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers())
    await client.start()
    try:
        await expel_members(client, settings.app_id)
        await delete_topics(client, {topic.name_of(settings) for topic in topics.ALL})
        await create_topics(settings)
        wanted = {topic.name_of(settings): topic.partitions(settings) for topic in topics.ALL}
        await until(lambda: have_leaders(client, wanted))
    finally:
        await client.close()


async def expel_members(client: AIOKafkaAdminClient, group: str) -> None:
    """Have everyone leave a consumer group who is in it, as the dead do not by themselves."""
    if group not in await groups(client):
        return
    coordinator = await client.find_coordinator(group)
    described = await client.describe_consumer_groups([group], coordinator)
    for *_, members in (entry[:6] for answer in described for entry in answer.groups):
        for member, *_ in members:
            answer = await client._send_request(LeaveGroupRequest(group, member), coordinator)
            expect(answer.error_code, f"{member} leaves", unless=UnknownMemberIdError)


async def groups(client: AIOKafkaAdminClient) -> set[str]:
    """Return the names of the consumer groups, once a broker just started has loaded them."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return {name for name, *_ in await client.list_consumer_groups()}
            except CoordinatorLoadInProgressError:
                await asyncio.sleep(POLL_SECONDS)


async def delete_topics(client: AIOKafkaAdminClient, names: set[str]) -> None:
    """Delete those of the topics that exist, and return when none does any more."""
    doomed = names & set(await client.list_topics())
    if not doomed:
        return
    answer = await client.delete_topics(sorted(doomed))
    for name, code in answer.topic_error_codes:
        expect(code, f"{name} is deleted", unless=UnknownTopicOrPartitionError)

    async def gone() -> bool:
        return not doomed & set(await client.list_topics())

    await until(gone)


async def have_leaders(client: AIOKafkaAdminClient, wanted: dict[str, int]) -> bool:
    """Tell whether each topic has as many partitions that can be written to as are wanted."""
    described: list[dict[str, Any]] = await client.describe_topics()
    led = {
        each["topic"]: sum(partition["leader"] >= 0 for partition in each["partitions"])
        for each in described
    }
    return all(led.get(name) == count for name, count in wanted.items())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(POLL_SECONDS)


def expect(code: int, what: str, unless: type[Exception]) -> None:
    error = for_code(code)
    assert error in (NoError, unless), f"{what}: {error.__name__}"
