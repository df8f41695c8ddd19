import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from benchmarks.kafka import KafkaBroker, unavailable
from streams.broker import EmbeddedBroker
from streams.settings import Settings
from tests.streams.fresh_kafka import GivenKafka, Kafka, renew
from tests.streams.workers import STARTED, end_workers_started_after

# Tests measure no time, and a kernel's first call may compile it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
GIVEN_KAFKA = "CRM_TEST_KAFKA"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses Apache Kafka, before ``-m`` chooses by marks."""
    for item in items:
        if isinstance(item, pytest.Function) and "kafka" in item.fixturenames:
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(autouse=True)
def no_worker_outlives_its_test() -> Iterator[None]:
    """Leave alone those of a whole module: they were started before."""
    before = len(STARTED)
    yield
    end_workers_started_after(before)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def broker() -> AsyncIterator[EmbeddedBroker]:
    """One embedded broker for all tests; topics of a test have names of their own."""
    async with EmbeddedBroker() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kafka() -> AsyncIterator[Kafka]:
    """One Apache Kafka for all tests; see `own_kafka` for one without anybody else's records."""
    given = os.environ.get(GIVEN_KAFKA)
    if given:
        yield GivenKafka(given)
        return
    reason = unavailable()
    if reason is not None:
        pytest.skip(f"{reason}; or set {GIVEN_KAFKA} to the address of a broker")
    async with KafkaBroker() as running:
        yield running


@pytest.fixture
async def own_kafka(kafka: Kafka) -> Kafka:
    """Apache Kafka with the engine's topics empty, in 4 partitions, and nobody in its group."""
    if isinstance(kafka, KafkaBroker) and not kafka.running:
        await kafka.start()
    await renew(kafka.url)
    return kafka


@pytest.fixture
def restartable_kafka(own_kafka: Kafka) -> KafkaBroker:
    """`own_kafka` for a test that stops, kills and starts it."""
    if not isinstance(own_kafka, KafkaBroker):
        pytest.skip(f"{GIVEN_KAFKA} names a broker that is not ours to stop")
    return own_kafka


@pytest.fixture
def settings(broker: EmbeddedBroker, tmp_path: Path) -> Settings:
    """Settings that point at the embedded broker and at a directory of this test's own."""
    return Settings(broker=broker.url, data_dir=tmp_path / "data")


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The public data sets, from CRM_DATA or beside the repository."""
    named = os.environ.get("CRM_DATA")
    directory = Path(named) if named else BESIDE
    if not directory.is_dir():
        pytest.skip(
            f"no public data: {directory} is not a directory; set CRM_DATA to where it lies"
        )
    return directory
