"""Topics with a test's own names on the shared broker."""

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.settings import Settings


async def make_topic(settings: Settings, name: str, partitions: int) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers())
    await client.start()
    try:
        await client.create_topics([NewTopic(name, partitions, 1)])
    finally:
        await client.close()
