"""What all of a chaos run happens on: broker, settings, traffic, and what is noted on the way."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from benchmarks.chaos.facts import SOURCE_TOPICS, home_of
from benchmarks.chaos.oracle import Oracle
from benchmarks.chaos.plan import Fault, Kind
from benchmarks.chaos.recovery import STALL_SECONDS, Durable, Recoveries
from benchmarks.chaos.sender import Sender
from benchmarks.chaos.traffic import LATENESS_SECONDS, Traffic
from benchmarks.chaos.verdict import OUTPUT_TOPICS, Judge, Profile, Verdict
from benchmarks.kafka import KafkaBroker, unavailable
from benchmarks.report import BenchmarkError
from streams.broker import EmbeddedBroker
from streams.reading import read_to_end
from streams.settings import Settings
from streams.topics import CUSTOMERS

APP_ID = "chaos"
PARTITIONS = 4
KAFKA, EMBEDDED = "kafka", "embedded"
HANG_SECONDS = 120.0
POLL_SECONDS = 0.02
BROKER_DOWN_SECONDS = 1.0
STEADY_SECONDS = 1.5

SMALL: Mapping[str, Any] = {
    "app_id": APP_ID,
    "partitions": PARTITIONS,
    "checkpoint_seconds": 0.1,
    "recommend_every_seconds": 0.5,
    "list_length": 3,
    "max_items": 200,
    # The least there is: rows of customers who are quiet leave memory, and are read back.
    "max_customers": 1_000,
    "chunk_records": 100,
    "allowed_lateness_seconds": LATENESS_SECONDS,
    "sweep_every_hours": 1,
    "churn_horizon_days": 1,
    "models_save_seconds": 1.0,
    "session_timeout_seconds": 2.0,
    "rebalance_timeout_seconds": 4.0,
    "watchdog_seconds": 20.0,
    "shutdown_seconds": 20.0,
}
"""Settings under which much happens in little time."""

COMPACTING = {
    "log.segment.bytes": str(1 << 20),
    "log.cleaner.backoff.ms": "1000",
    "log.cleaner.min.cleanable.ratio": "0.01",
}
"""Settings of Apache Kafka under which the changelog is compacted within a run."""

Broker = KafkaBroker | EmbeddedBroker


@asynccontextmanager
async def running_broker(kind: str) -> AsyncIterator[Broker]:
    """Run a broker of a kind with nothing in it.

    Raises
    ------
    BenchmarkError
        Where Apache Kafka cannot be had.
    """
    if kind == KAFKA and (reason := unavailable()) is not None:
        raise BenchmarkError(f"{reason}; --broker embedded does without")
    made = KafkaBroker(properties=COMPACTING) if kind == KAFKA else EmbeddedBroker()
    async with made as broker:
        yield broker


def chosen_settings(broker: Broker, guarantee: str | None) -> dict[str, Any]:
    """Return the settings of a run that are not the default's."""
    promised = {} if guarantee is None else {"guarantee": guarantee}
    return {"broker": broker.url, **SMALL, **promised}


async def keep_statements(settings: Settings) -> None:
    """Have Kafka compact nothing of the topic `customers` in a day: the oracle reads all of it."""
    client = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers())
    await client.start()
    try:
        values = {**CUSTOMERS.config(), "min.compaction.lag.ms": str(86_400_000)}
        topic = ConfigResource(ConfigResourceType.TOPIC, CUSTOMERS.name, configs=values)
        for answer in await client.alter_configs([topic]):
            for code, text, *_ in answer.resources:
                if code:
                    raise BenchmarkError(f"the topic customers could not be set up: {text}")
    finally:
        await client.close()


@dataclass(slots=True)
class Scene:
    """One run: what it happens on, and what is noted.

    Attributes
    ----------
    broker, settings, home
        The broker; the settings of everyone; the directory for disks and logs.
    traffic, sender, durable, recoveries
        See there.
    exactly_once, has_changelog
        What the engine promises.
    chosen
        The settings that are not the default's, but for directories and ports.
    problems
        What went wrong beside the oracle's counts.
    on_fault
        Told of each fault.
    """

    broker: Broker
    settings: Settings
    home: Path
    traffic: Traffic
    sender: Sender
    durable: Durable
    recoveries: Recoveries
    exactly_once: bool
    has_changelog: bool
    chosen: Mapping[str, Any]
    on_fault: Callable[[str], None]
    problems: list[str] = field(default_factory=list)

    def note(self, fault: Fault) -> None:
        """Note that a fault has come."""
        self.recoveries.note(fault.name, self.sender.ends())
        self.on_fault(fault.name)

    async def until(
        self, what: str, condition: Callable[[], bool], plight: Callable[[], str]
    ) -> None:
        """Wait until `condition` holds.

        A wait of more than `STALL_SECONDS` is a stall.

        Raises
        ------
        BenchmarkError
            After `HANG_SECONDS`, with what `plight` says of it.
        """
        started = time.monotonic()
        is_stalled = False
        while not condition():
            waited = time.monotonic() - started
            if waited > STALL_SECONDS and not is_stalled:
                is_stalled = True
                self.recoveries.stalls.append(f"waiting for {what}: {plight()}")
            if waited > HANG_SECONDS:
                raise BenchmarkError(f"{what}: not within {HANG_SECONDS:.0f} s: {plight()}")
            await asyncio.sleep(POLL_SECONDS)

    async def until_recovered(self, plight: Callable[[], str]) -> None:
        """Wait until everything sent before each fault is durable."""
        await self.until("recovery", lambda: self.recoveries.is_over, plight)

    async def until_steady(
        self, what: str, condition: Callable[[], bool], plight: Callable[[], str]
    ) -> None:
        """Wait until `condition` holds without a break for `STEADY_SECONDS`."""
        since: float | None = None

        def holds() -> bool:
            nonlocal since
            now = time.monotonic()
            if not condition():
                since = None
                return False
            since = since or now
            return now - since >= STEADY_SECONDS

        await self.until(what, holds, plight)

    async def end_broker(self, fault: Fault) -> None:
        """Stop or kill the broker."""
        assert isinstance(self.broker, KafkaBroker)
        self.note(fault)
        if fault.kind is Kind.BROKER_KILL:
            await self.broker.kill()
        else:
            await self.broker.stop()

    async def start_broker(self) -> None:
        """Start the broker again, a little after its end."""
        assert isinstance(self.broker, KafkaBroker)
        await asyncio.sleep(BROKER_DOWN_SECONDS)
        await self.broker.start()

    def homes(self) -> dict[str, int]:
        """Return the partition of every customer of whom anything was sent."""
        return {name: home_of(name, PARTITIONS) for name in self.traffic.customers()}

    async def judge(self, profiles: Mapping[str, Profile]) -> Verdict:
        """Hold everything that came out against everything that lies in the topics."""
        oracle = Oracle(self.traffic.ledger, PARTITIONS)
        for topic in SOURCE_TOPICS:
            async for record in read_to_end(self.settings, topic):
                oracle.take(record)
        expected = oracle.finish(self.sender.acknowledged)
        judge = Judge(expected, PARTITIONS, exactly_once=self.exactly_once)
        for topic in OUTPUT_TOPICS:
            async for record in read_to_end(self.settings, topic):
                judge.take(record)
        return judge.judge(profiles)
