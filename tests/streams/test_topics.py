import pytest

from streams import topics
from streams.settings import Settings
from streams.topics import Direction, Topic

CONTRACT = {
    Direction.IN: """
        clicks purchases chats catalog customers rules activities feedback privacy-requests
    """,
    Direction.OUT: """
        recommendations alerts segments forecasts decisions deal-levels chat-insights dead-letters
    """,
    Direction.INTERNAL: "crm-changelog crm-models",
}


@pytest.mark.parametrize("direction", list(Direction))
def test_the_topics_are_those_of_the_contract(direction: Direction) -> None:
    names = {topic.name for topic in topics.ALL if topic.direction is direction}
    assert names == set(CONTRACT[direction].split())


def test_no_topic_is_declared_twice() -> None:
    assert len({topic.name for topic in topics.ALL}) == len(topics.ALL)


def test_sources_share_their_partitions() -> None:
    settings = Settings(partitions=5)
    for name in topics.SOURCES:
        topic = topics.find(name)
        assert topic is not None
        assert topic.customer_keyed
        assert topic.partitions(settings) == 5


@pytest.mark.parametrize("topic", [topics.CATALOG, topics.RULES, topics.DEAD_LETTERS])
def test_what_is_not_keyed_by_customer_has_one_partition(topic: Topic) -> None:
    assert topic.partitions(Settings(partitions=5)) == 1


def test_what_workers_learned_has_a_partition_for_deltas_and_one_for_snapshots() -> None:
    assert topics.MODELS.partitions(Settings(partitions=5)) == 2


def test_the_changelog_has_a_partition_for_each_of_the_sources() -> None:
    assert topics.CHANGELOG.partitions(Settings(partitions=5)) == 5


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_compacted_topics_say_so_to_the_broker(topic: Topic) -> None:
    expected = {"catalog", "customers", "rules", "crm-changelog"}
    assert topic.compacted == (topic.name in expected)
    assert (topic.config().get("cleanup.policy") == "compact") == topic.compacted


def test_only_internal_topics_carry_the_name_of_the_app() -> None:
    shop = Settings(app_id="shop")
    for topic in topics.ALL:
        prefixed = topic.name_of(shop) == f"shop-{topic.name}"
        assert prefixed == (topic.direction is Direction.INTERNAL)
        assert topic.name_of(Settings()) == topic.name
