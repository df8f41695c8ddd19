from collections.abc import AsyncIterator

import pytest

from streams import admin, topics
from streams.admin import TopicFacts
from streams.broker import EmbeddedBroker
from streams.errors import BrokerUnavailableError, TopicsError
from streams.settings import Settings
from tests.streams.topics_for_tests import make_topic

NOBODY = Settings(broker="kafka://127.0.0.1:1")


@pytest.fixture
async def empty() -> AsyncIterator[Settings]:
    """A broker without topics, of this test's own."""
    async with EmbeddedBroker() as running:
        yield Settings(broker=running.url, partitions=3)


async def test_topics_are_created_once(empty: Settings) -> None:
    assert await admin.create_topics(empty) == [topic.name for topic in topics.ALL]
    assert await admin.create_topics(empty) == []
    listed = await admin.list_topics(empty)
    assert TopicFacts("clicks", 3) in listed
    assert TopicFacts("catalog", 1) in listed
    assert len(listed) == len(topics.ALL)


async def test_only_what_is_missing_is_created(empty: Settings) -> None:
    await make_topic(empty, "chats", 3)
    assert "chats" not in await admin.create_topics(empty)


async def test_a_source_with_other_partitions_is_refused(empty: Settings) -> None:
    await make_topic(empty, "chats", 4)
    with pytest.raises(TopicsError, match="topic chats has 4 partitions, not 3"):
        await admin.create_topics(empty)
    assert await admin.list_topics(empty) == [TopicFacts("chats", 4)]


async def test_a_topic_that_is_read_whole_may_have_any_partitions(empty: Settings) -> None:
    await make_topic(empty, "catalog", 5)
    await admin.create_topics(empty)
    assert TopicFacts("catalog", 5) in await admin.list_topics(empty)


async def test_the_check_tells_the_partitions_that_are_there(empty: Settings) -> None:
    await make_topic(empty, "clicks", 5)
    await make_topic(empty, "chats", 5)
    await make_topic(empty, "catalog", 1)
    assert await admin.check_topics(empty, ["clicks", "chats", "catalog"]) == 5
    assert await admin.check_topics(empty, ["catalog"]) == 3
    assert await admin.partitions_of_topic(empty, "clicks") == 5


async def test_the_check_names_what_is_missing_and_creates_nothing(empty: Settings) -> None:
    await make_topic(empty, "clicks", 3)
    with pytest.raises(TopicsError, match=r"chats, purchases; .* crm-streams topics create"):
        await admin.check_topics(empty, ["clicks", "chats", "purchases"])
    with pytest.raises(TopicsError, match="no such topic"):
        await admin.partitions_of_topic(empty, "chats")
    assert await admin.list_topics(empty) == [TopicFacts("clicks", 3)]


async def test_the_check_refuses_sources_with_differing_partitions(empty: Settings) -> None:
    await make_topic(empty, "clicks", 3)
    await make_topic(empty, "chats", 4)
    with pytest.raises(TopicsError, match="clicks 3, chats 4"):
        await admin.check_topics(empty, ["clicks", "chats"])


async def test_where_no_broker_answers_it_is_said_in_one_line() -> None:
    with pytest.raises(BrokerUnavailableError) as raised:
        await admin.cluster_id(NOBODY)
    assert str(raised.value) == "no broker answers at kafka://127.0.0.1:1"


async def test_waiting_tells_each_retry_and_gives_up_in_the_end() -> None:
    told: list[str] = []
    with pytest.raises(BrokerUnavailableError):
        await admin.wait_for_broker(NOBODY, attempts=3, pause_seconds=0, on_retry=told.append)
    assert [line.split("; ")[1] for line in told] == ["attempt 1 of 3", "attempt 2 of 3"]


async def test_waiting_ends_when_the_broker_is_there(settings: Settings) -> None:
    assert await admin.wait_for_broker(settings) == await admin.cluster_id(settings)
