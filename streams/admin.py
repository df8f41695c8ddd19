"""The cluster's facts and topics: whether it is there, which one it is, what topics it has.

Each function opens a connection of its own and closes it; none is on the path of an event.
Works on Apache Kafka and on the embedded broker.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from streams import topics
from streams.errors import BrokerError, BrokerUnavailableError, TopicsError
from streams.settings import Settings
from streams.topics import Topic

TIMEOUT_SECONDS = 10.0
_OWN_REPLICATION = -1
"""The broker's own default replication factor (KIP-464)."""


@dataclass(frozen=True, slots=True, order=True)
class TopicFacts:
    """A topic as the broker has it.

    Attributes
    ----------
    name
        The topic's name.
    partitions
        How many partitions it has.
    """

    name: str
    partitions: int


async def cluster_id(settings: Settings, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
    """Return the id of the cluster that answers at the broker's address.

    Raises
    ------
    BrokerUnavailableError
        No broker answers in time.
    """
    async with _client(settings, timeout_seconds) as client:
        facts = await client.describe_cluster()
    return str(facts["cluster_id"])


async def wait_for_broker(
    settings: Settings,
    attempts: int = 10,
    pause_seconds: float = 1.0,
    timeout_seconds: float = TIMEOUT_SECONDS,
    on_retry: Callable[[str], None] = lambda _: None,
) -> str:
    """Ask until a broker answers, and return its cluster's id.

    Parameters
    ----------
    attempts
        How often to ask, at least once.
    pause_seconds
        Time between two attempts.
    timeout_seconds
        Time for one attempt.
    on_retry
        Told one clear line before each further attempt.

    Raises
    ------
    BrokerUnavailableError
        After the last attempt.
    """
    for attempt in range(1, attempts):
        try:
            return await cluster_id(settings, timeout_seconds)
        except BrokerUnavailableError as error:
            on_retry(f"{error}; attempt {attempt} of {attempts}")
            await asyncio.sleep(pause_seconds)
    return await cluster_id(settings, timeout_seconds)


async def list_topics(settings: Settings) -> list[TopicFacts]:
    """Return every topic of the cluster by name, internal ones of the broker left out.

    Raises
    ------
    BrokerUnavailableError
        No broker answers.
    """
    async with _client(settings) as client:
        return await _list(client)


async def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing; what is there already is left as it is.

    Returns
    -------
    The names of the created topics, in the order of `streams.topics.ALL`.

    Raises
    ------
    TopicsError
        A topic that should have `Settings.partitions` partitions has not, or the broker refused
        to create one.
    BrokerUnavailableError
        No broker answers.
    """
    async with _client(settings) as client:
        existing = {facts.name: facts.partitions for facts in await _list(client)}
        _refuse_other_partitions(settings, existing)
        missing = [topic for topic in topics.ALL if topic.name_of(settings) not in existing]
        if not missing:
            return []
        answer = await client.create_topics([_request(topic, settings) for topic in missing])
    created = []
    for name, code, message in (entry[:3] for entry in answer.topic_errors):
        error = for_code(code)
        # Another process may have been faster, which is as good.
        if error is TopicAlreadyExistsError:
            continue
        if code:
            raise TopicsError(f"topic {name} was not created: {message or error.__name__}")
        created.append(str(name))
    return created


async def check_topics(settings: Settings, names: Iterable[str]) -> int:
    """Check that topics exist and that the customer-keyed ones have equally many partitions.

    Never asks for a topic that may not exist: a broker may create it then.

    Parameters
    ----------
    names
        Names of topics on the broker.

    Returns
    -------
    How many partitions the customer-keyed ones have; `Settings.partitions` where none is
    among `names`.

    Raises
    ------
    TopicsError
        Naming what is missing or differs, and the command that mends it.
    BrokerUnavailableError
        No broker answers.
    """
    existing = {facts.name: facts.partitions for facts in await list_topics(settings)}
    wanted = list(names)
    missing = [name for name in wanted if name not in existing]
    if missing:
        raise _missing(settings, missing)
    keyed = {name: existing[name] for name in wanted if _is_customer_keyed(name)}
    counts = set(keyed.values())
    if len(counts) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in keyed.items())
        raise TopicsError(
            f"customer-keyed topics must have equally many partitions, but have: {shown}; "
            "delete or extend the ones that differ"
        )
    return counts.pop() if counts else settings.partitions


async def partitions_of_topic(settings: Settings, name: str) -> int:
    """Return how many partitions one topic has.

    Raises
    ------
    TopicsError
        There is no such topic.
    BrokerUnavailableError
        No broker answers.
    """
    for facts in await list_topics(settings):
        if facts.name == name:
            return facts.partitions
    raise _missing(settings, [name])


async def tombstones_ms(settings: Settings, name: str) -> int:
    """Return how long a compacted topic keeps the tombstone of a key, ms, as the broker has it.

    Raises
    ------
    BrokerError
        The broker does not tell.
    """
    setting = "delete.retention.ms"
    resource = ConfigResource(ConfigResourceType.TOPIC, name, configs={setting: None})
    async with _client(settings) as client:
        answers = await client.describe_configs([resource])
    for answer in answers:
        for code, message, _, _, entries in (entry[:5] for entry in answer.resources):
            if code:
                raise BrokerError(f"{settings.broker}: configuration of {name}: {message}")
            for entry in entries:
                if entry[0] == setting:
                    return int(entry[1])
    raise BrokerError(f"{settings.broker} does not tell {setting} of {name}")


@asynccontextmanager
async def _client(
    settings: Settings, timeout_seconds: float = TIMEOUT_SECONDS
) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open an admin client; what Kafka says to it becomes one of our errors."""
    client = AIOKafkaAdminClient(
        bootstrap_servers=settings.bootstrap_servers(),
        client_id=settings.app_id,
        request_timeout_ms=int(timeout_seconds * 1_000),
        **settings.client_security(),
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            await client.start()
        yield client
    except (KafkaConnectionError, OSError) as error:
        over = "" if settings.security_protocol == "PLAINTEXT" else settings.security_protocol
        raise BrokerUnavailableError(
            f"no broker answers at {settings.broker}{over and ' over '}{over}"
        ) from error
    except KafkaError as error:
        raise BrokerError(f"{settings.broker}: {error}") from error
    finally:
        await client.close()


async def _list(client: AIOKafkaAdminClient) -> list[TopicFacts]:
    described = await client.describe_topics()
    return sorted(
        TopicFacts(str(each["topic"]), len(each["partitions"]))
        for each in described
        if not each["is_internal"]
    )


def _request(topic: Topic, settings: Settings) -> NewTopic:
    request = NewTopic(topic.name_of(settings), topic.partitions(settings), 1)
    request.topic_configs = topic.config()
    # The constructor takes -1 for the replicas only with -1 for the partitions.
    request.replication_factor = _OWN_REPLICATION
    return request


def _refuse_other_partitions(settings: Settings, existing: dict[str, int]) -> None:
    for topic in topics.ALL:
        # The others are read whole, which any number of partitions will do for.
        if not (topic.customer_keyed or topic.per_partition):
            continue
        name, wanted = topic.name_of(settings), topic.partitions(settings)
        if existing.get(name, wanted) != wanted:
            raise TopicsError(
                f"topic {name} has {existing[name]} partitions, not {wanted}: "
                "set partitions to what the topics have, or delete the topic"
            )


def _is_customer_keyed(name: str) -> bool:
    topic = topics.find(name)
    return topic is not None and topic.customer_keyed


def _missing(settings: Settings, names: list[str]) -> TopicsError:
    return TopicsError(
        f"no such topic on {settings.broker}: {', '.join(names)}; "
        f"create the engine's with: crm-streams topics create --broker {settings.broker}"
    )
